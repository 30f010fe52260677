package main

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/etcdkit/etcdkit/kv"
)

// entryBody is a key with its metadata.
type entryBody struct {
	Key            string `json:"key"`
	KeyEncoding    string `json:"keyEncoding,omitempty"` // "base64" if the key is not UTF-8
	Value          string `json:"value"`
	Encoding       string `json:"encoding,omitempty"` // "base64" if the value is not UTF-8
	CreateRevision int64  `json:"createRevision"`
	ModRevision    int64  `json:"modRevision"`
	Version        int64  `json:"version"`
	Lease          string `json:"lease,omitempty"` // in hexadecimal, as etcdctl prints it
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

// writtenBody is the answer to a put.
type writtenBody struct {
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
}

// deletedBody is the answer to a delete: how many keys it has deleted.
type deletedBody struct {
	Deleted int `json:"deleted"`
}

// getKey reads a key from etcd, or with ?cached=true from memory. The answer is the value, or with
// ?metadata=true an [entryBody].
func (s *service) getKey(r *request) (response, error) {
	key, err := r.key()
	if err != nil {
		return response{}, err
	}
	cached, err := r.flag("cached")
	if err != nil {
		return response{}, err
	}
	metadata, err := r.flag("metadata")
	if err != nil {
		return response{}, err
	}
	e, age, err := s.read(r, key, cached)
	if err != nil {
		return response{}, err
	}
	header := etag(e.ModRevision)
	if age != "" {
		header["Age"] = age
	}
	if metadata {
		return response{data: bodyOf(e), header: header}, nil
	}
	value, err := plainText(e.Value)
	return response{data: value, header: header}, err
}

// read returns a key, and for a read from memory how many seconds of changes it may have missed.
func (s *service) read(r *request, key string, cached bool) (e kv.Entry[[]byte], age string, err error) {
	if !cached || s.cached == nil {
		e, err = s.client.KV().Get(r.Context(), key)
		return e, "", err
	}
	e, err = s.cached.Get(r.Context(), key)
	return e, strconv.Itoa(int(s.cached.Age().Seconds())), err
}

// putBody is the body of a put.
type putBody struct {
	Value      *string `json:"value"`
	Encoding   string  `json:"encoding"`
	TTLSeconds *int64  `json:"ttlSeconds"`
}

// putKey writes a key. With "If-None-Match: *" the key must not exist; with If-Match it must not
// have changed since it was read.
func (s *service) putKey(r *request) (response, error) {
	key, err := r.writableKey()
	if err != nil {
		return response{}, err
	}
	rev, err := r.revision()
	if err != nil {
		return response{}, err
	}
	absent, err := r.ifAbsent()
	if err != nil {
		return response{}, err
	}
	var body putBody
	if err := decode(r, &body); err != nil {
		return response{}, err
	}
	value, err := s.parseValue("value", body.Value, body.Encoding)
	if err != nil {
		return response{}, err
	}
	options, err := withTTL(body.TTLSeconds)
	if err != nil {
		return response{}, err
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
		return response{}, err
	}
	return response{status: status, data: writtenBody{Key: key, Revision: rev}, header: etag(rev)}, nil
}

// deleteKey deletes a key, with If-Match only if it has not changed since it was read. Deleting a
// key that does not exist succeeds.
func (s *service) deleteKey(r *request) (response, error) {
	key, err := r.writableKey()
	if err != nil {
		return response{}, err
	}
	rev, err := r.revision()
	if err != nil {
		return response{}, err
	}
	if rev != 0 {
		rev, err = s.values.DeleteAt(r.Context(), key, rev)
	} else {
		rev, err = s.values.Delete(r.Context(), key)
	}
	switch {
	case err != nil:
		return response{}, err
	case rev == 0:
		return response{data: deletedBody{}}, nil
	}
	return response{data: deletedBody{Deleted: 1}, header: revisionHeader(rev)}, nil
}

// casBody is the body of a compare-and-swap.
type casBody struct {
	ExpectedValue *string `json:"expectedValue"`
	NewValue      *string `json:"newValue"`
	Encoding      string  `json:"encoding"` // of both
}

// compareAndSwap writes a key if its value is the expected one. A caller that has read the key
// should use If-Match instead, which also notices a value that was changed and changed back.
func (s *service) compareAndSwap(r *request) (response, error) {
	key, err := r.writableKey()
	if err != nil {
		return response{}, err
	}
	var body casBody
	if err := decode(r, &body); err != nil {
		return response{}, err
	}
	expected, err := s.parseValue("expectedValue", body.ExpectedValue, body.Encoding)
	if err != nil {
		return response{}, err
	}
	value, err := s.parseValue("newValue", body.NewValue, body.Encoding)
	if err != nil {
		return response{}, err
	}
	rev, err := s.client.KV().CompareAndSwap(r.Context(), key, expected, value)
	if s.cached != nil {
		s.cached.Invalidate(key) // the write has bypassed the cache's own store
	}
	if err != nil {
		return response{}, err
	}
	return response{data: true, header: etag(rev)}, nil
}

// reservedDirs returns the dirs that other parts of etcdkit use.
func reservedDirs() []string { return []string{"services/", "locks/", "elections/", ".etcdkit/"} }

// writableKey returns the key of a write. It refuses keys that other parts of etcdkit use in the
// same namespace: a stray key in the queue of a lock would block the lock.
func (r *request) writableKey() (string, error) {
	key, err := r.key()
	if err != nil {
		return "", err
	}
	for _, dir := range reservedDirs() {
		if strings.HasPrefix(key, dir) {
			return "", &refusal{
				status: http.StatusForbidden, code: "reserved",
				text: "keys below " + dir + " cannot be written through the gateway",
			}
		}
	}
	return key, nil
}
