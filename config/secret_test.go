package config_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// hiddenText hides its value when it is encoded.
type hiddenText struct{ text string }

func (s hiddenText) MarshalText() ([]byte, error) { return []byte("***"), nil }

func (s *hiddenText) UnmarshalText(b []byte) error {
	s.text = string(b)
	return nil
}

func TestValue_SetStoresSecretsAsTheyAre(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "db/password", "hunter2")
	put(t, p, "token", "t0ken")
	s := open(t, p)

	dir := bindDir[struct {
		Password etcdkit.Secret
		Pool     int
	}](t, s, "db")
	x := dir.Load()
	require.Equal(t, "hunter2", x.Password.Reveal())
	x.Password, x.Pool = etcdkit.NewSecret("hunter3"), 10
	_, err := dir.Set(t.Context(), x)
	require.NoError(t, err)
	assert.Equal(t, "hunter3", contents(s)["db/password"])
	assert.Equal(t, "hunter3", dir.Load().Password.Reveal())

	token := bind[etcdkit.Secret](t, s, "token")
	_, err = token.Set(t.Context(), etcdkit.NewSecret("t1ken"))
	require.NoError(t, err)
	assert.Equal(t, "t1ken", contents(s)["token"])
	_, err = config.Set(t.Context(), s, "token", etcdkit.NewSecret("t2ken"))
	require.NoError(t, err)
	assert.Equal(t, "t2ken", token.Load().Reveal())
}

func TestValue_SetRefusesTypesThatHideTheirValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	stored := map[string]string{
		"doc": `{"User":"u","Password":"hunter2"}`, "doc.yaml": "User: u\nPassword: hunter2\n", "list": `["hunter2"]`,
		"sealed": "hunter2", "codec": `{"User":"u","Password":"hunter2"}`,
	}
	for key, value := range stored {
		put(t, p, key, value)
	}
	s := open(t, p)
	type login struct {
		User     string
		Password etcdkit.Secret
	}
	doc, yaml, list := bind[login](t, s, "doc"), bind[login](t, s, "doc.yaml"), bind[[]etcdkit.Secret](t, s, "list")
	shut := bind[hiddenText](t, s, "sealed")
	codec := bind(t, s, "codec", config.WithCodec(config.JSON[login]()))
	require.Equal(t, "hunter2", doc.Load().Password.Reveal(), "they can be read")
	require.Equal(t, "hunter2", shut.Load().text)

	set := func(_ int64, err error) error { return err }
	for _, err := range []error{
		set(doc.Set(t.Context(), doc.Load())), set(yaml.Set(t.Context(), yaml.Load())), set(list.Set(t.Context(), list.Load())),
		set(shut.Set(t.Context(), shut.Load())), set(codec.Set(t.Context(), codec.Load())),
		set(config.Set(t.Context(), s, "doc", doc.Load())),
	} {
		require.ErrorIs(t, err, config.ErrInvalid)
		assert.ErrorContains(t, err, "hides its value")
	}
	_, err := doc.Set(t.Context(), doc.Load())
	require.ErrorContains(t, err, "field Password hides its value when it is encoded: give it a key of its own")
	assert.Equal(t, stored, contents(s), "nothing was overwritten")
}
