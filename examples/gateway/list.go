package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"unicode/utf8"

	"github.com/etcdkit/etcdkit/kv"
)

// listBody is a page of entries. All pages that follow from one first page show one revision.
type listBody struct {
	Entries  []entryBody `json:"entries"`
	Revision int64       `json:"revision"`
	Total    int64       `json:"total"`            // of all pages
	Cursor   string      `json:"cursor,omitempty"` // of the next page; none on the last one
}

// cursor says where a page ends. It is neither a secret nor a permission: whatever a client sends,
// the listing stays below the prefix.
type cursor struct {
	Prefix   string `json:"p"`
	After    []byte `json:"a"` // a key, which need not be UTF-8
	Revision int64  `json:"r"`
	Total    int64  `json:"t"`
}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "" // cannot happen: these are strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(raw, prefix string) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(raw)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.Prefix != prefix || c.Revision < 1 || c.Total < 0 ||
		!bytes.HasPrefix(c.After, []byte(prefix)) || len(c.After) == 0 {
		return cursor{}, badQuery("the cursor was not issued for this prefix")
	}
	return c, nil
}

// maxFullPages is how many pages of the largest size may be in memory at a time. Beyond it, pages
// are short.
const maxFullPages = 16

// listPrefix lists the keys below a dir. The answer is a map from key to value, or with
// ?metadata=true a [listBody].
func (s *service) listPrefix(r *request) (response, error) {
	prefix, err := r.prefix()
	if err != nil {
		return response{}, err
	}
	metadata, err := r.flag("metadata")
	if err != nil {
		return response{}, err
	}
	if metadata {
		return s.listPage(r, prefix)
	}
	for _, name := range []string{"limit", "cursor"} {
		if _, ok := r.query[name]; ok {
			return response{}, badQuery(name + " needs metadata=true")
		}
	}
	return s.listMap(r, prefix)
}

// listMap answers with all keys below a dir, if one answer can hold them.
func (s *service) listMap(r *request, prefix string) (response, error) {
	start, err := s.firstCursor(r, prefix)
	if err != nil {
		return response{}, err
	}
	p, err := s.readPage(r, start, s.set.Gateway.Limits.PageEntries)
	switch {
	case err != nil:
		return response{}, err
	case p.crowded:
		return response{}, tooBusy("too many listings are in memory")
	case p.more:
		return response{}, &refusal{
			status: http.StatusRequestEntityTooLarge, code: "too_large",
			text: "the prefix has more than one answer can hold: use ?metadata=true, which answers in pages",
		}
	}
	all := make(map[string]string, len(p.entries))
	for _, e := range p.entries {
		if !utf8.ValidString(e.Key) || !utf8.Valid(e.Value) {
			key, _ := text([]byte(e.Key))
			return response{}, notText("the value or the key of " + key)
		}
		all[e.Key] = string(e.Value)
	}
	return response{data: all, header: revisionHeader(start.Revision)}, nil
}

// listPage answers with one page, which a large dir needs.
func (s *service) listPage(r *request, prefix string) (response, error) {
	limit, err := r.number("limit", s.set.Gateway.Limits.PageEntries)
	if err != nil {
		return response{}, err
	}
	var start cursor
	if raw, ok := r.query["cursor"]; ok {
		start, err = parseCursor(raw, prefix)
	} else {
		start, err = s.firstCursor(r, prefix)
	}
	if err != nil {
		return response{}, err
	}
	p, err := s.readPage(r, start, limit)
	if err != nil {
		return response{}, err
	}
	body := listBody{Entries: make([]entryBody, len(p.entries)), Revision: start.Revision, Total: start.Total}
	for n, e := range p.entries {
		body.Entries[n] = bodyOf(e)
	}
	if p.more {
		next := start
		next.After = []byte(p.entries[len(p.entries)-1].Key)
		body.Cursor = next.String()
	}
	return response{data: body, header: revisionHeader(start.Revision)}, nil
}

// firstCursor returns the cursor of the first page, at the current revision.
func (s *service) firstCursor(r *request, prefix string) (cursor, error) {
	first, err := s.client.KV().Page(r.Context(), prefix, 1, "")
	return cursor{Prefix: prefix, Revision: first.Revision, Total: first.Total}, err
}

// page is a part of a listing.
type page struct {
	entries []kv.Entry[[]byte]
	more    bool // entries are left
	crowded bool // because the pages in memory are too many, not because this one is full
}

// readPage reads entries from a cursor on. A page is bounded in bytes as well as in entries, since
// a thousand of the largest values are more than a gigabyte. Its bytes count among those of all
// pages in memory until the answer is sent. Leaving the loop ends the read on the server.
func (s *service) readPage(r *request, start cursor, limit int) (p page, err error) {
	options := []kv.ListOption{kv.WithRevision(start.Revision), kv.WithLimit(limit + 1)}
	if len(start.After) > 0 {
		options = append(options, kv.WithAfter(string(start.After)))
	}
	size, maxSize := 0, s.set.Gateway.Limits.PageBytes
	r.out.onRelease(func() { s.listed.Add(-int64(size)) })
	for e, err := range s.client.KV().List(r.Context(), start.Prefix, options...) {
		if err != nil {
			return page{}, err
		}
		weight := weightOf([]byte(e.Key)) + weightOf(e.Value)
		full := len(p.entries) == limit || size+weight > maxSize
		crowded := s.listed.Load() > maxFullPages*int64(maxSize)
		if len(p.entries) > 0 && (full || crowded) {
			p.more, p.crowded = true, !full
			break
		}
		size += weight
		s.listed.Add(int64(weight))
		p.entries = append(p.entries, e)
	}
	return p, nil
}
