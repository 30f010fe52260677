package config_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestBindDir_UsesJSONTags(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for key, value := range map[string]string{"d/maxConns": "5", "d/named": "n", "d/plain-one": "1", "d/inner/value": "7", "d/kept": "k", "d/doc": "1"} {
		put(t, p, key, value)
	}
	s := open(t, p)
	type inner struct {
		Value int `json:"value,omitempty"`
	}
	type settings struct {
		inner `json:"inner"`

		MaxConns int    `json:"maxConns,omitempty"`
		Named    string `config:"named" json:"other"`
		PlainOne int    `json:",omitempty"`
		Kept     string `config:"kept" json:"-"`
		Required int    `config:",required" json:"doc"`
		Skipped  string `json:"-"`
	}
	v := bindDir(t, s, "d", config.WithStrict[settings]())
	assert.Equal(t, settings{inner: inner{7}, MaxConns: 5, Named: "n", PlainOne: 1, Kept: "k", Required: 1}, v.Load())
	x := v.Load()
	x.MaxConns, x.Value = 6, 8
	_, err := v.Set(t.Context(), x)
	require.NoError(t, err)
	assert.Equal(t, "6", contents(s)["d/maxConns"])
	assert.Equal(t, "8", contents(s)["d/inner/value"])
}

// Base is embedded by name, as its unexported twin is.
type (
	base struct {
		Rate int `config:",required"`
	}
	Base struct{ Rate int }
)

func TestBindDir_FillsNamedEmbeddedStructs(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "d/base/rate", "5")
	put(t, p, "d/other/rate", "6")
	put(t, p, "d/x", "1")
	s := open(t, p)
	v := bindDir[struct {
		base `config:"base"`
		Base `config:"other"`
		X    int
	}](t, s, "d")
	assert.Equal(t, 5, v.Load().base.Rate)
	assert.Equal(t, 6, v.Load().Base.Rate)
	_, err := config.BindDir[struct {
		*base

		X int
	}](s, "d")
	require.ErrorIs(t, err, config.ErrInvalid)
	require.ErrorContains(t, err, "field base: a pointer to a struct of an unexported type cannot be set")
}

func TestBindDir_FailsOnBadKeysUnlessSomethingStandsIn(t *testing.T) {
	t.Parallel()
	type db struct {
		DSN  string
		Pool int `default:"5"`
		Size int
	}
	p := parttest.Shared(t)
	put(t, p, "db/dsn", "pg://prod")
	put(t, p, "db/pool", "many")
	put(t, p, "db/size", "much")
	s := open(t, p)
	_, err := config.BindDir[db](s, "db")
	require.ErrorIs(t, err, kv.ErrDecode)
	bad, ok := errors.AsType[*config.BadValueError](err)
	require.True(t, ok)
	assert.Equal(t, "db/pool", bad.Key)
	assert.Equal(t, `config: bind dir "db": key "db/pool": bad value at revision N: value cannot be decoded: not a whole number that fits int; `+
		`key "db/size": bad value at revision N: value cannot be decoded: not a whole number that fits int`, withoutRevision(err), "every bad key is named")

	put(t, p, "db/pool", "1")
	waitForRevision(t, s, put(t, p, "db/size", "2"))
	waitForRevision(t, s, put(t, p, "db/unknown", "3"))
	_, err = config.BindDir(s, "db", config.WithStrict[db]())
	require.ErrorIs(t, err, kv.ErrDecode)
	require.ErrorContains(t, err, `key "db/unknown": bad value`)

	v := bindDir(t, s, "db", config.WithStrict[db](), config.WithDefault(db{DSN: "pg://default"}))
	assert.Equal(t, "pg://default", v.Load().DSN)
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
}

func TestValue_ReportsEveryBadKey(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	received, handler := recordErrors()
	s := open(t, p, handler)
	v := bindDir[struct {
		A, B int
		C    int
		Dir  map[string]bool `config:"dir,dir"`
	}](t, s, "d")
	_, err := p.KV().Txn(t.Context()).Then(clientv3.OpPut("conf/d/a", "x"), clientv3.OpPut("conf/d/b", "y"),
		clientv3.OpPut("conf/d/c", "3"), clientv3.OpPut("conf/d/dir/e", "z")).Commit()
	require.NoError(t, err)
	received.Await(t, 3)
	keys := map[string]bool{}
	for _, one := range received.All() {
		require.ErrorIs(t, one.err, kv.ErrDecode)
		keys[one.key] = true
	}
	assert.Equal(t, map[string]bool{"d/a": true, "d/b": true, "d/dir/e": true}, keys)
	assert.EqualValues(t, 3, s.Stats().BadValues)
	assert.Equal(t, 1, s.Stats().Bad, "one value")
	require.ErrorContains(t, v.Err(), `key "d/b"`)
	waitForRevision(t, s, put(t, p, "d/a", "1"))
	require.NotContains(t, v.Err().Error(), `key "d/a"`)
	require.ErrorContains(t, v.Err(), `key "d/dir/e"`)
}

func TestBindDir_OriginOfRefusedValues(t *testing.T) {
	t.Setenv("ORIGIN_ENV_A", "-1")
	p := parttest.Shared(t)
	s := open(t, p, config.WithEnvironment("ORIGIN"))
	type dir struct{ A, B int }
	positive := config.WithValidate(func(x dir) error {
		if x.A < 0 || x.B < 0 {
			return errors.New("negative")
		}
		return nil
	})
	_, err := config.BindDir(s, "env", positive)
	bad, ok := errors.AsType[*config.BadValueError](err)
	require.True(t, ok)
	assert.Equal(t, config.Environment, bad.Origin)
	require.ErrorContains(t, err, "bad value from the environment: refused by validation: negative")

	rev := put(t, p, "etcd/a", "-1")
	waitForRevision(t, s, rev)
	_, err = config.BindDir(s, "etcd", positive)
	bad, ok = errors.AsType[*config.BadValueError](err)
	require.True(t, ok)
	assert.Equal(t, config.Live, bad.Origin)
	assert.Equal(t, rev, bad.Revision)

	_, err = config.BindDir(s, "none", config.WithValidate(func(dir) error { return errors.New("never") }))
	bad, ok = errors.AsType[*config.BadValueError](err)
	require.True(t, ok)
	assert.Equal(t, config.Defaults, bad.Origin)
}

func TestFollow_RunsAfterAllValuesOfTransaction(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "a", "1")
	put(t, p, "b", "1")
	s := open(t, p)
	a := bind[int](t, s, "a")
	slow := make(chan struct{})
	b := bind(t, s, "b", config.WithValidate(func(n int) error {
		if n == 2 {
			<-slow
		}
		return nil
	}))
	seen := make(chan [2]int, 10)
	defer a.Follow(func(n int) { seen <- [2]int{n, b.Load()} })()
	require.Equal(t, [2]int{1, 1}, <-seen)
	_, err := p.KV().Txn(t.Context()).Then(clientv3.OpPut("conf/a", "2"), clientv3.OpPut("conf/b", "2")).Commit()
	require.NoError(t, err)
	var got [2]int
	pause := time.NewTimer(50 * time.Millisecond) // it must not be told however long this waits
	defer pause.Stop()
	select {
	case got = <-seen:
		close(slow)
	case <-pause.C:
		close(slow)
		got = <-seen
	}
	assert.Equal(t, [2]int{2, 2}, got)
}

// tier is read from text, and has no text of its own.
type tier int

func (l *tier) UnmarshalText(b []byte) error {
	switch string(b) {
	case "low":
		*l = 1
	case "high":
		*l = 2
	default:
		return errors.New("it is neither low nor high")
	}
	return nil
}

func TestBind_ReadsTypesWithUnmarshalTextAlone(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "d/tier", "high")
	s := open(t, p)
	v := bindDir[struct {
		Tier tier `default:"low"`
		N    int
	}](t, s, "d")
	assert.Equal(t, tier(2), v.Load().Tier)
	x := v.Load()
	x.N = 1
	_, err := v.Set(t.Context(), x)
	require.NoError(t, err, "it is not written")
	x.Tier = 1
	_, err = v.Set(t.Context(), x)
	require.ErrorIs(t, err, config.ErrInvalid)
	require.ErrorContains(t, err, "field Tier: invalid argument: config_test.tier cannot be stored")
	assert.Equal(t, map[string]string{"d/tier": "high", "d/n": "1"}, contents(s))
}

func TestEnvironment_ListsAreSeparatedByCommas(t *testing.T) {
	t.Setenv("LIST_D_NONE", "[]")
	for name, value := range map[string]string{
		"HOSTS": "a, b,c", "WAITS": "1s,2m", "PORTS": " 80", "JSON": `["x,y"]`, "TIERS": "low,high", "BAD": "1,two",
	} {
		t.Setenv("LIST_D_"+name, value)
	}
	p := parttest.Shared(t)
	put(t, p, "e/hosts", "a,b")
	s := open(t, p, config.WithEnvironment("LIST"))
	v := bindDir[struct {
		Hosts, JSON, None []string
		Waits             []time.Duration
		Ports             []uint16
		Tiers             []tier
	}](t, s, "d")
	x := v.Load()
	assert.Equal(t, []string{"a", "b", "c"}, x.Hosts)
	assert.Equal(t, []string{"x,y"}, x.JSON)
	assert.Empty(t, x.None)
	assert.Equal(t, []time.Duration{time.Second, 2 * time.Minute}, x.Waits)
	assert.Equal(t, []uint16{80}, x.Ports)
	assert.Equal(t, []tier{1, 2}, x.Tiers)
	hosts, err := config.Get[[]string](s, "d/hosts")
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b", "c"}, hosts)
	assert.Equal(t, hosts, bind[[]string](t, s, "d/hosts").Load())
	_, err = config.BindDir[struct{ Bad []int }](s, "d")
	require.ErrorContains(t, err, "bad value from the environment: value cannot be decoded: not a whole number that fits int")
	_, err = config.Get[[]string](s, "e/hosts")
	require.ErrorIs(t, err, kv.ErrDecode, "in etcd a list is JSON")
}

func TestEnvironment_KeysThatShareVariableAreRefused(t *testing.T) {
	t.Setenv("SHARE_FLAGS_NEW_UI", "true")
	p := parttest.Shared(t)
	put(t, p, "flags/new-ui", "false")
	put(t, p, "flags/new_ui", "false")
	s := open(t, p, config.WithEnvironment("SHARE"))
	_, err := config.BindDir[struct {
		DB     struct{ PoolSize int }
		DBPool struct{ Size int }
	}](s, "")
	require.ErrorIs(t, err, config.ErrInvalid)
	require.ErrorContains(t, err, `keys "db/pool-size" and "db-pool/size" share the variable SHARE_DB_POOL_SIZE`)

	bind(t, s, "http/rate-limit", config.WithDefault(1))
	bind(t, s, "http/rate-limit", config.WithDefault(1)) // the same key is no other one
	_, err = config.Bind(s, "http/rate_limit", config.WithDefault(1))
	require.ErrorIs(t, err, config.ErrInvalid)
	require.ErrorContains(t, err, "SHARE_HTTP_RATE_LIMIT")

	_, err = config.BindDir[struct {
		Flags map[string]bool `config:"flags,dir"`
	}](s, "")
	require.ErrorIs(t, err, kv.ErrDecode)
	require.ErrorContains(t, err, `its variable SHARE_FLAGS_NEW_UI is that of the key "flags/new-ui", too`)

	without := open(t, p)
	bind(t, without, "http/rate-limit", config.WithDefault(1))
	bind(t, without, "http/rate_limit", config.WithDefault(1))
}
