package config_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// database is a dir with a field of each kind that is written in its own way.
type database struct {
	Pool     int `default:"10"`
	Password etcdkit.Secret
	Note     *string
	Hosts    []string
	Flags    map[string]bool `config:"flags,dir"`
}

func TestValue_SetWritesOnlyChangedFields(t *testing.T) {
	t.Setenv("SETDIR_DB_POOL", "7")
	p := parttest.Shared(t)
	put(t, p, "db/password", "hunter2")
	put(t, p, "db/flags/a", "true")
	put(t, p, "db/flags/b", "true")
	put(t, p, "db/note", "old")
	last := put(t, p, "db/hosts", `[ "x" ]`)
	s := open(t, p, config.WithEnvironment("SETDIR"))
	waitForRevision(t, s, last)
	v := bindDir[database](t, s, "db")

	rev, err := v.Set(t.Context(), v.Load())
	require.NoError(t, err)
	assert.Zero(t, rev, "nothing has changed")

	x := v.Load()
	x.Flags = map[string]bool{"a": true, "c": false}
	x.Note = nil
	rev, err = v.Set(t.Context(), x)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"db/password": "hunter2", "db/flags/a": "true", "db/flags/c": "false", "db/hosts": `[ "x" ]`}, contents(s),
		"neither what the environment says is written, nor what is as it was")
	e, err := p.KV().Get(t.Context(), "conf/db/flags/a")
	require.NoError(t, err)
	assert.Less(t, e.ModRevision, rev)

	x.Pool = 8
	_, err = v.Set(t.Context(), x)
	require.NoError(t, err)
	e, err = p.KV().Get(t.Context(), "conf/db/pool")
	require.NoError(t, err)
	assert.Equal(t, "8", string(e.Value))
	assert.Equal(t, 7, v.Load().Pool, "the environment goes on to win")
}

func TestValue_SetReplacesBadFieldsAlsoWithWhatLoadReturns(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "db/pool", "5")
	s := open(t, p)
	v := bindDir[database](t, s, "db")
	waitForRevision(t, s, put(t, p, "db/pool", "many"))
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
	_, err := v.Set(t.Context(), v.Load())
	require.NoError(t, err)
	require.NoError(t, v.Err())
	assert.Equal(t, map[string]string{"db/pool": "5"}, contents(s))
}

func TestValue_SetNeverWritesNull(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "d/list", "[1]")
	put(t, p, "d/map", `{"a":1}`)
	put(t, p, "d/any", `5`)
	put(t, p, "d/list.yaml", "[1]\n")
	s := open(t, p)
	v := bindDir[struct {
		List []int
		Map  map[string]int
		Any  any
		Y    []int `config:"list.yaml"`
	}](t, s, "d")
	x := v.Load()
	x.List, x.Map, x.Any, x.Y = nil, nil, nil, nil
	_, err := v.Set(t.Context(), x)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"d/list": "[]", "d/map": "{}", "d/list.yaml": "[]\n"}, contents(s))
	require.NoError(t, v.Err())
	_, err = config.Set[any](t.Context(), s, "null", nil)
	require.ErrorIs(t, err, config.ErrInvalid)
}

func TestValue_UpdateKeepsWhatOthersWrite(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "db/password", "hunter2")
	s := open(t, p)
	dir := bindDir[database](t, s, "db")
	key := bind(t, s, "hosts", config.WithDefault([]string{"first"}))
	const writers, rounds = 4, 5
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprintf("%d-%d", w, i)
				_, err := dir.Update(t.Context(), func(x *database) error {
					x.Hosts = append(x.Hosts, name)
					if x.Flags == nil {
						x.Flags = map[string]bool{}
					}
					x.Flags[name] = true
					return nil
				})
				assert.NoError(t, err)
				_, err = key.Update(t.Context(), func(hosts *[]string) error {
					*hosts = append(*hosts, name)
					return nil
				})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Len(t, dir.Load().Hosts, writers*rounds)
	assert.Len(t, dir.Load().Flags, writers*rounds)
	assert.Equal(t, "hunter2", dir.Load().Password.Reveal())
	assert.NotContains(t, contents(s), "db/pool", "a default is not written")
	assert.Len(t, key.Load(), 1+writers*rounds)
}

func TestValue_UpdateStartsAgainWhenAnyKeyChanges(t *testing.T) {
	t.Parallel()
	for name, interfere := range map[string]func(t *testing.T, p *parttest.Parts){
		"a field is changed":   func(t *testing.T, p *parttest.Parts) { put(t, p, "db/pool", "11") },
		"a field is added":     func(t *testing.T, p *parttest.Parts) { put(t, p, "db/note", "n") },
		"a field is deleted":   func(t *testing.T, p *parttest.Parts) { del(t, p, "db/hosts") },
		"an entry is added":    func(t *testing.T, p *parttest.Parts) { put(t, p, "db/flags/z", "true") },
		"an entry is deleted":  func(t *testing.T, p *parttest.Parts) { del(t, p, "db/flags/a") },
		"a field is put again": func(t *testing.T, p *parttest.Parts) { put(t, p, "db/pool", "5") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parttest.Shared(t)
			put(t, p, "db/pool", "5")
			put(t, p, "db/hosts", `["h"]`)
			put(t, p, "db/flags/a", "true")
			s := open(t, p)
			v := bindDir[database](t, s, "db")
			calls := 0
			rev, err := v.Update(t.Context(), func(x *database) error {
				calls++
				if calls == 1 {
					interfere(t, p)
				}
				x.Password = etcdkit.NewSecret("hunter3")
				return nil
			})
			require.NoError(t, err)
			assert.NotZero(t, rev)
			assert.Equal(t, 2, calls)
			assert.Equal(t, "hunter3", v.Load().Password.Reveal(), "it is shown when Update returns")
		})
	}
}

func TestValue_UpdateOfOtherKeysDoesNotInterfere(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bindDir[database](t, s, "db")
	calls := 0
	_, err := v.Update(t.Context(), func(x *database) error {
		calls++
		put(t, p, "db/unknown", "1")
		put(t, p, "dc/pool", "1")
		x.Pool = 1
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, 1, calls)
}

func TestValue_UpdateWritesNothingIfNothingChanges(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	shared := map[string]int{"a": 1}
	s := open(t, p)
	type dir struct{ M map[string]int }
	v := bindDir(t, s, "d", config.WithDefault(dir{M: shared}))
	key := bind(t, s, "k", config.WithDefault(shared))
	rev, err := v.Update(t.Context(), func(*dir) error { return nil })
	require.NoError(t, err)
	assert.Zero(t, rev)
	rev, err = key.Update(t.Context(), func(*map[string]int) error { return nil })
	require.NoError(t, err)
	assert.Zero(t, rev)

	errOwn := errors.New("of the function")
	_, err = v.Update(t.Context(), func(x *dir) error {
		x.M["b"] = 2
		return errOwn
	})
	require.ErrorIs(t, err, errOwn)
	_, err = key.Update(t.Context(), func(m *map[string]int) error {
		(*m)["b"] = 2
		return errOwn
	})
	require.ErrorIs(t, err, errOwn)
	assert.Equal(t, map[string]int{"a": 1}, shared, "the default is not what the function gets")
	assert.Empty(t, contents(s))
}

func TestValue_UpdateLeavesTheEnvironmentOut(t *testing.T) {
	t.Setenv("UPD_DB_POOL", "99")
	t.Setenv("UPD_RATE", "99")
	p := parttest.Shared(t)
	put(t, p, "db/pool", "5")
	last := put(t, p, "rate", "5")
	s := open(t, p, config.WithEnvironment("UPD"))
	waitForRevision(t, s, last)
	dir := bindDir[database](t, s, "db")
	require.Equal(t, 99, dir.Load().Pool)
	_, err := dir.Update(t.Context(), func(x *database) error {
		x.Pool++
		return nil
	})
	require.NoError(t, err)
	rate := bind[int](t, s, "rate")
	_, err = rate.Update(t.Context(), func(n *int) error {
		*n++
		return nil
	})
	require.NoError(t, err)
	for _, key := range []string{"conf/db/pool", "conf/rate"} {
		e, err := p.KV().Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, "6", string(e.Value))
	}
	assert.Equal(t, 99, rate.Load())
}

func TestValue_UpdateRefusals(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "sealed", "x")
	put(t, p, "bad/pool", "many")
	s := open(t, p)
	positive := config.WithValidate(func(x database) error {
		if x.Pool < 1 {
			return errors.New("must be at least 1")
		}
		return nil
	})
	dir := bindDir(t, s, "db", positive)
	rate := bind(t, s, "rate", config.WithDefault(1), config.WithValidate(func(n int) error {
		if n < 1 {
			return errors.New("must be at least 1")
		}
		return nil
	}))
	bad := bindDir(t, s, "bad", config.WithDefault(database{}))
	shut := bind[hiddenText](t, s, "sealed")
	ctx := t.Context()
	lower := func(x *database) error {
		x.Pool = 0
		return nil
	}
	_, err := dir.Update(ctx, lower)
	require.ErrorIs(t, err, config.ErrValidation)
	require.EqualError(t, err, `config: update "db/": refused by validation: must be at least 1`)
	_, err = rate.Update(ctx, func(n *int) error {
		*n = 0
		return nil
	})
	require.ErrorIs(t, err, config.ErrValidation)
	_, err = bad.Update(ctx, lower)
	require.ErrorIs(t, err, kv.ErrDecode)
	_, err = shut.Update(ctx, func(x *hiddenText) error {
		x.text = "y"
		return nil
	})
	require.ErrorIs(t, err, config.ErrInvalid)
	_, err = shut.Update(ctx, func(*hiddenText) error { return nil })
	require.NoError(t, err)

	_, err = dir.Update(ctx, nil)
	require.ErrorIs(t, err, config.ErrInvalid)
	_, err = dir.Update(ctx, func(x *database) error {
		x.Pool = 2
		return nil
	}, kv.WithOnce())
	require.ErrorIs(t, err, config.ErrInvalid)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = dir.Update(ended, lower)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Close())
	_, err = dir.Update(ctx, lower)
	require.ErrorIs(t, err, config.ErrClosed)
}

func TestValue_UpdateIsGuarded(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	dir := bindDir[database](t, s, "db")
	rate := bind(t, s, "rate", config.WithDefault(1))
	errLost := errors.New("lost")
	guard := kv.WithGuard(kv.NewGuard(errLost, clientv3.Compare(clientv3.CreateRevision(etcdtest.Prefix(t)+"held"), ">", 0)))
	_, err := dir.Update(t.Context(), func(x *database) error {
		x.Pool = 2
		return nil
	}, guard)
	require.ErrorIs(t, err, errLost)
	_, err = rate.Update(t.Context(), func(n *int) error {
		*n = 2
		return nil
	}, guard)
	require.ErrorIs(t, err, errLost)
	assert.Empty(t, contents(s))
}

func TestValue_UpdateGivesUpAfterTooManyConflicts(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	dir := bindDir[database](t, s, "db")
	calls := 0
	_, err := dir.Update(t.Context(), func(x *database) error {
		calls++
		put(t, p, "db/hosts", fmt.Sprintf(`["%d"]`, calls))
		x.Pool = 2
		return nil
	})
	require.ErrorIs(t, err, kv.ErrConflict)
	assert.Equal(t, 64, calls)
}
