# The proxy as a container image: nothing in it but Node and the compiled program.
#
#   docker build -t azure-openai-proxy .
#   docker run --rm -p 3000:3000 azure-openai-proxy --demo
#   docker run -d -p 3000:3000 -v "$PWD/config.yaml:/etc/azure-openai-proxy/config.yaml:ro" azure-openai-proxy
#
# Node comes from NODE_IMAGE: name your own mirror, or an image by its digest, where builds must repeat exactly.
ARG NODE_IMAGE=node:24-bookworm-slim

# ---- TypeScript to one file -----------------------------------------------------------------------------------------
FROM ${NODE_IMAGE} AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json ./
COPY lib ./lib
COPY deploy/build ./deploy/build
RUN npm run build
# What --version, /health and the log say; package.json's own if left out.
ARG VERSION=
RUN if [ -n "$VERSION" ]; then npm pkg set "version=$VERSION"; fi

# ---- What runs ------------------------------------------------------------------------------------------------------
FROM ${NODE_IMAGE}
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /src/dist/proxy.cjs /src/dist/proxy.cjs.map ./dist/
COPY --from=build /src/node_modules/yaml/LICENSE ./licenses/yaml.txt
COPY --from=build /src/package.json ./package.json
COPY bin ./bin
COPY LICENSE config.template.yaml ./

# By number, so that Kubernetes can see that it is not root. Nothing in /app belongs to it: it can read, not change.
USER 1000:1000
EXPOSE 3000
STOPSIGNAL SIGTERM
# The program asks itself where its config says it listens; no curl in the image. 3 s is its own time limit.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
  CMD ["node", "bin/proxy.js", "--health", "--config", "/etc/azure-openai-proxy/config.yaml"]
# A young heap of 8 MB instead of 16: an open stream takes a third less memory and costs no more (test/bench/README.md).
# Traces in the log name lines of dist/proxy.cjs, which says above each part which file of lib it is. With
# --enable-source-maps in front of bin/proxy.js they name lines of lib/*.ts, for 7 MB and a slower start.
ENTRYPOINT ["node", "--max-semi-space-size=8", "bin/proxy.js"]
CMD ["--config", "/etc/azure-openai-proxy/config.yaml"]
