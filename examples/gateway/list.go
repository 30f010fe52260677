package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"

	"github.com/etcdkit/etcdkit/kv"
)

// listBody is a page of entries. All pages that follow from one first page are of one revision.
type listBody struct {
	Entries  []entryBody `json:"entries"`
	Revision int64       `json:"revision"`
	Total    int64       `json:"total"`            // of all pages
	Cursor   string      `json:"cursor,omitempty"` // for the next page; none on the last one
}

// cursor is where a page has ended. It is no secret and no permission: whatever it says, the listing stays below the prefix.
type cursor struct {
	Prefix   string `json:"p"`
	After    []byte `json:"a"` // which need not be UTF-8
	Revision int64  `json:"r"`
	Total    int64  `json:"t"`
}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "" // cannot be: it is text and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(said, prefix string) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(said)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.Prefix != prefix || c.Revision < 1 || c.Total < 0 || !bytes.HasPrefix(c.After, []byte(prefix)) || len(c.After) == 0 {
		return cursor{}, badQuery("the cursor is not one that was given for this prefix")
	}
	return c, nil
}

// fullPages is how many pages of the most bytes may be in memory at a time. When there are as many, pages are short.
const fullPages = 16

// listPrefix lists what lies below a dir, a page at a time. Pages are bounded in bytes as well as in entries: a thousand of the
// largest values would be more than a gigabyte.
func (s *service) listPrefix(r *request) (answer, error) {
	prefix, err := r.prefix()
	if err != nil {
		return answer{}, err
	}
	limit, err := r.number("limit", s.set.Gateway.Limits.PageEntries)
	if err != nil {
		return answer{}, err
	}
	var at cursor
	if said, ok := r.query["cursor"]; ok {
		at, err = parseCursor(said, prefix)
	} else {
		at, err = s.beginning(r, prefix)
	}
	if err != nil {
		return answer{}, err
	}
	page, err := s.page(r, at, limit)
	return answer{data: page}, err
}

// beginning is the place before the first page, at the current revision.
func (s *service) beginning(r *request, prefix string) (cursor, error) {
	first, err := s.client.KV().Page(r.Context(), prefix, 1, "")
	return cursor{Prefix: prefix, Revision: first.Revision, Total: first.Total}, err
}

// page lists from a place on. What does not belong on the page is not read: leaving the loop ends the listing. What is on it
// counts among all pages in memory until it is sent.
func (s *service) page(r *request, at cursor, limit int) (listBody, error) {
	page := listBody{Entries: []entryBody{}, Revision: at.Revision, Total: at.Total}
	options := []kv.ListOption{kv.WithRevision(at.Revision), kv.WithLimit(limit + 1)}
	if len(at.After) > 0 {
		options = append(options, kv.WithAfter(string(at.After)))
	}
	size, most := 0, s.set.Gateway.Limits.PageBytes
	r.out.onRelease(func() { s.listed.Add(-int64(size)) })
	for e, err := range s.client.KV().List(r.Context(), at.Prefix, options...) {
		if err != nil {
			return listBody{}, err
		}
		weight := weightOf([]byte(e.Key)) + weightOf(e.Value)
		full := size+weight > most || s.listed.Load() > fullPages*int64(most)
		if n := len(page.Entries); n == limit || n > 0 && full {
			page.Cursor = at.String()
			break
		}
		size += weight
		s.listed.Add(int64(weight))
		at.After = []byte(e.Key)
		page.Entries = append(page.Entries, bodyOf(e))
	}
	return page, nil
}
