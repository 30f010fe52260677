package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// layout defines the keys and the encoding of instances.
type layout struct {
	top    string // prefix of all services
	below  string // between service and instance ID
	encode func(i *Instance) ([]byte, error)
	decode func(service, id string, value []byte) (*Instance, error)
}

// native returns the layout of this package.
func native() layout {
	return layout{top: "services/", below: "/instances/", encode: encodeRecord, decode: decodeRecord}
}

func naming() layout { return layout{below: "/", encode: encodeNaming, decode: decodeNaming} }

// dir returns the prefix of a service's instances.
func (l *layout) dir(service string) string { return l.top + service + l.below }

// key returns the key of an instance.
func (l *layout) key(service, id string) string { return l.dir(service) + id }

// split splits a key below top.
func (l *layout) split(rest string) (service, id string, ok bool) {
	service, id, ok = strings.Cut(rest, l.below)
	ok = ok && checkSegment("service", service) == nil && id != ""
	// The format of client/v3/naming is less strict.
	return service, id, ok && (l.top == "" || checkSegment("id", id) == nil)
}

// record is the JSON form of an instance.
type record struct {
	Service    string            `json:"serviceName"`
	ID         string            `json:"instanceId"`
	Host       string            `json:"host"`
	Port       int               `json:"port"`
	Scheme     string            `json:"scheme,omitempty"`
	Version    string            `json:"version,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Weight     int               `json:"weight,omitempty"`
	Tags       []string          `json:"tags,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Status     Status            `json:"status,omitempty"`
	Registered timestamp         `json:"registrationTime,omitzero"`
}

func recordOf(i *Instance) record {
	return record{
		Service: i.Service, ID: i.ID, Host: i.Host, Port: i.Port, Scheme: i.Scheme, Version: i.Version, Zone: i.Zone,
		Weight: i.Weight, Tags: i.Tags, Metadata: i.Metadata, Status: i.Status, Registered: timestamp{i.Registered},
	}
}

// instance converts the record stored under a key, or returns why it is invalid.
func (r *record) instance(service, id string) (*Instance, error) {
	if r.Service != "" && r.Service != service || r.ID != "" && r.ID != id {
		return nil, errors.New("value names another instance than the key")
	}
	i := &Instance{
		Service: service, ID: id, Host: r.Host, Port: r.Port, Scheme: r.Scheme, Version: r.Version, Zone: r.Zone,
		Weight: min(r.Weight, MaxWeight), Tags: r.Tags, Metadata: r.Metadata, Status: r.Status, Registered: r.Registered.Time,
	}
	if i.Status == "" {
		i.Status = Up
	}
	switch {
	case r.Weight < 0:
		return nil, errors.New("negative weight")
	case r.Port < 1 || r.Port > maxPort:
		return nil, errors.New("invalid port")
	case checkHost(r.Host) != nil:
		return nil, errors.New("invalid host")
	}
	return i, nil
}

func encodeRecord(i *Instance) ([]byte, error) { return json.Marshal(recordOf(i)) }

func decodeRecord(service, id string, value []byte) (*Instance, error) {
	if checkSegment("id", id) != nil {
		return nil, errors.New("not an instance key")
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, decodeError(err)
	}
	return r.instance(service, id)
}

// decodeError describes an error of encoding/json without quoting the value.
func decodeError(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("value cannot be decoded: field %s at byte %d has the wrong type", strconv.Quote(e.Field), e.Offset)
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("value cannot be decoded: invalid JSON at byte %d", e.Offset)
	}
	return errors.New("value cannot be decoded")
}

// timestamp is written in RFC 3339 and also read as milliseconds since 1970, as other programs
// write it. Anything else is read as the zero time, so that the instance is not lost.
type timestamp struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (s *timestamp) UnmarshalJSON(b []byte) error {
	if ms, err := strconv.ParseFloat(string(b), 64); err == nil {
		s.Time = time.Time{}
		if ms > 0 && ms < 1<<47 {
			s.Time = time.UnixMilli(int64(ms)).UTC()
		}
		return nil
	}
	if s.Time.UnmarshalJSON(b) != nil {
		s.Time = time.Time{}
	}
	return nil
}

// namingUpdate is the JSON form of client/v3/naming.
type namingUpdate struct {
	Op       uint8
	Addr     string
	Metadata json.RawMessage
}

func encodeNaming(i *Instance) ([]byte, error) {
	meta, err := encodeRecord(i)
	if err != nil {
		return nil, err
	}
	return json.Marshal(namingUpdate{Addr: i.Addr(), Metadata: meta})
}

// decodeNaming decodes entries by this package and by other users of the format.
func decodeNaming(service, id string, value []byte) (*Instance, error) {
	var u namingUpdate
	if err := json.Unmarshal(value, &u); err != nil {
		return nil, decodeError(err)
	}
	host, digits, err := net.SplitHostPort(u.Addr)
	port, notNumber := strconv.Atoi(digits)
	if err != nil || notNumber != nil || u.Op != 0 {
		return nil, errors.New("value does not add a host and port")
	}
	var r record
	if json.Unmarshal(u.Metadata, &r) != nil || r.Service != service || r.ID != id {
		r = record{Metadata: foreignMetadata(u.Metadata)}
	}
	r.Host, r.Port = host, port
	return r.instance(service, id)
}

// foreignMetadata returns the metadata that another program wrote: the members of an object,
// strings as they are and everything else as JSON. Any other value becomes the member "metadata".
// It returns nil if the entry has no Metadata.
func foreignMetadata(raw json.RawMessage) map[string]string {
	if len(raw) == 0 {
		return nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		members = map[string]json.RawMessage{"metadata": raw}
	}
	out := make(map[string]string, len(members))
	for k, v := range members {
		var text string
		if json.Unmarshal(v, &text) != nil {
			text = string(v)
		}
		out[k] = text
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
