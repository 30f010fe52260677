package main

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/etcdkit/etcdkit/kv"
)

// base64Name is the encoding of values that JSON cannot carry as they are.
const base64Name = "base64"

func base64Of(value []byte) string { return base64.StdEncoding.EncodeToString(value) }

// entryBody is a key as it is answered with.
type entryBody struct {
	Key            string `json:"key"`
	KeyEncoding    string `json:"keyEncoding,omitempty"` // "base64" where the key is not UTF-8
	Value          string `json:"value"`
	Encoding       string `json:"encoding,omitempty"` // "base64" where the value is not UTF-8
	CreateRevision int64  `json:"createRevision"`
	ModRevision    int64  `json:"modRevision"`
	Version        int64  `json:"version"`
	Lease          string `json:"lease,omitempty"` // in hexadecimal, as etcdctl has it
}

func bodyOf(e kv.Entry[[]byte]) entryBody {
	b := entryBody{CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version}
	b.Key, b.KeyEncoding = text([]byte(e.Key))
	b.Value, b.Encoding = text(e.Value)
	if e.Lease != 0 {
		b.Lease = strconv.FormatInt(int64(e.Lease), 16)
	}
	return b
}

// writtenBody is what a write is answered with.
type writtenBody struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
}

// written is the answer to a write. Its ETag is the key's until the next write.
func written(status int, key string, rev int64) answer {
	return answer{status: status, data: writtenBody{Key: key, Revision: rev}, header: etag(rev)}
}

// getKey reads a key: from etcd, or with ?cached=true from memory.
func (s *service) getKey(r *request) (answer, error) {
	key, err := r.key()
	if err != nil {
		return answer{}, err
	}
	cached, err := r.flag("cached")
	if err != nil {
		return answer{}, err
	}
	header := map[string]string{}
	var e kv.Entry[[]byte]
	if cached && s.cached != nil {
		e, err = s.cached.Get(r.Context(), key)
		header["Age"] = strconv.Itoa(int(s.cached.Age().Seconds()))
	} else {
		e, err = s.client.KV().Get(r.Context(), key)
	}
	if err != nil {
		return answer{}, err
	}
	header["ETag"] = etag(e.ModRevision)["ETag"]
	return answer{data: bodyOf(e), header: header}, nil
}

// putBody is what is to be written.
type putBody struct {
	Value      *string `json:"value"`
	Encoding   string  `json:"encoding"`
	TTLSeconds *int64  `json:"ttlSeconds"`
}

// putKey writes a key: whatever stands there; only if nothing does (If-None-Match: *); or only if it is still as it was
// read (If-Match).
func (s *service) putKey(r *request) (answer, error) {
	key, err := r.writable()
	if err != nil {
		return answer{}, err
	}
	rev, err := r.revision()
	if err != nil {
		return answer{}, err
	}
	absent, err := r.ifAbsent()
	if err != nil {
		return answer{}, err
	}
	var body putBody
	if err := decode(r, &body); err != nil {
		return answer{}, err
	}
	value, err := valueOf("value", body.Value, body.Encoding)
	if err != nil {
		return answer{}, err
	}
	options, err := ttl(body.TTLSeconds)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	switch {
	case absent:
		status = http.StatusCreated
		rev, err = s.values.Create(r.Context(), key, value, options...)
	case rev != 0:
		rev, err = s.values.Replace(r.Context(), key, value, rev, options...)
	default:
		rev, err = s.values.Put(r.Context(), key, value, options...)
	}
	if err != nil {
		return answer{}, err
	}
	return written(status, key, rev), nil
}

// deleteKey deletes a key, with If-Match only if it is still as it was read.
func (s *service) deleteKey(r *request) (answer, error) {
	key, err := r.writable()
	if err != nil {
		return answer{}, err
	}
	rev, err := r.revision()
	if err != nil {
		return answer{}, err
	}
	if rev != 0 {
		rev, err = s.values.DeleteAt(r.Context(), key, rev)
	} else {
		rev, err = s.values.Delete(r.Context(), key)
	}
	switch {
	case err != nil:
		return answer{}, err
	case rev == 0:
		return answer{}, kv.ErrNotFound
	}
	return answer{data: writtenBody{Key: key, Revision: rev}}, nil
}

// casBody is a value, and what is to stand in its place.
type casBody struct {
	ExpectedValue *string `json:"expectedValue"`
	NewValue      *string `json:"newValue"`
	Encoding      string  `json:"encoding"` // of both
}

// compareAndSwap writes a key if its value is the one expected. Whoever has read the key does better with If-Match, which
// also notices a value that was changed and changed back.
func (s *service) compareAndSwap(r *request) (answer, error) {
	key, err := r.writable()
	if err != nil {
		return answer{}, err
	}
	var body casBody
	if err := decode(r, &body); err != nil {
		return answer{}, err
	}
	expected, err := valueOf("expectedValue", body.ExpectedValue, body.Encoding)
	if err != nil {
		return answer{}, err
	}
	value, err := valueOf("newValue", body.NewValue, body.Encoding)
	if err != nil {
		return answer{}, err
	}
	rev, err := s.client.KV().CompareAndSwap(r.Context(), key, expected, value)
	if s.cached != nil {
		s.cached.Invalidate(key) // it did not go through the cache's own store
	}
	if err != nil {
		return answer{}, err
	}
	return written(http.StatusOK, key, rev), nil
}

// reserved is the dirs that other parts keep.
func reserved() []string { return []string{"services/", "locks/", "elections/", ".etcdkit/"} }

// writable is key for a write. What other parts keep in the same namespace is not to be written as if it were data: a
// key among those of a lock would block it.
func (r *request) writable() (string, error) {
	key, err := r.key()
	if err != nil {
		return "", err
	}
	for _, dir := range reserved() {
		if strings.HasPrefix(key, dir) {
			return "", &refusal{status: http.StatusForbidden, code: "reserved", text: "keys below " + dir + " are not written here"}
		}
	}
	return key, nil
}

// valueOf is a value from a body.
func valueOf(name string, said *string, encoding string) ([]byte, error) {
	if said == nil {
		return nil, badBody("field \"" + name + "\" is missing")
	}
	switch encoding {
	case "", "utf8":
		return []byte(*said), nil
	case base64Name:
		value, err := base64.StdEncoding.Strict().DecodeString(*said)
		if err != nil || strings.ContainsAny(*said, "\r\n") { // which the decoder skips
			return nil, badBody(fmt.Sprintf("field %q is not base64", name))
		}
		return value, nil
	}
	return nil, badBody(`field "encoding" is "utf8" or "base64"`)
}

// ttl is the option for a number of seconds. What etcd does not accept is refused by kv.
func ttl(seconds *int64) ([]kv.PutOption, error) {
	switch {
	case seconds == nil:
		return nil, nil
	case *seconds < 1:
		return nil, badBody("ttlSeconds is 1 at least")
	case *seconds > math.MaxInt64/int64(time.Second):
		return nil, badBody("ttlSeconds is more than etcd can count")
	}
	return []kv.PutOption{kv.WithTTL(time.Duration(*seconds) * time.Second)}, nil
}
