package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/discovery"
)

// instanceBody is an instance of a service.
type instanceBody struct {
	Service  string            `json:"serviceName"`
	ID       string            `json:"instanceId"`
	Host     string            `json:"host"`
	Port     int               `json:"port"`
	Scheme   string            `json:"scheme,omitempty"`
	Version  string            `json:"version,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Weight   int               `json:"weight,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Status   string            `json:"status"`
	Since    time.Time         `json:"registrationTime,omitzero"`

	TTLSeconds int `json:"ttlSeconds,omitempty"` // in the answer to a registration
}

func instanceBodyOf(i *discovery.Instance) instanceBody {
	return instanceBody{
		Service: i.Service, ID: i.ID, Host: i.Host, Port: i.Port, Scheme: i.Scheme, Version: i.Version,
		Zone: i.Zone, Weight: i.Weight, Tags: i.Tags, Metadata: i.Metadata, Status: string(i.Status),
		Since: i.Registered,
	}
}

// registerBody is the body of a registration. The path names the service and the instance.
type registerBody struct {
	Host     string            `json:"host"`
	Port     int               `json:"port"`
	Scheme   string            `json:"scheme"`
	Version  string            `json:"version"`
	Zone     string            `json:"zone"`
	Weight   int               `json:"weight"`
	Tags     []string          `json:"tags"`
	Metadata map[string]string `json:"metadata"`
}

// register registers an instance, or renews and changes one that this gateway has registered. The
// instance is removed when it has not been renewed for ttlSeconds.
func (s *service) register(r *request) (response, error) {
	var body registerBody
	if err := decode(r, &body); err != nil {
		return response{}, err
	}
	i := discovery.Instance{
		Service: r.params["service"], ID: r.params["id"], Host: body.Host, Port: body.Port,
		Scheme: body.Scheme, Version: body.Version, Zone: body.Zone, Weight: body.Weight, Tags: body.Tags,
		Metadata: body.Metadata,
	}
	isNew, err := s.registrations.put(r.Context(), i)
	if err != nil {
		return response{}, err
	}
	status := http.StatusOK
	if isNew {
		status = http.StatusCreated
	}
	i.Status = discovery.Up
	data := instanceBodyOf(&i)
	data.TTLSeconds = int(time.Duration(s.set.Gateway.RegistrationTTL).Seconds())
	return response{status: status, data: data}, nil
}

// deregisteredBody is the answer to a deregistration.
type deregisteredBody struct {
	Service string `json:"serviceName"`
	ID      string `json:"instanceId"`
}

// deregister removes an instance that this gateway has registered.
func (s *service) deregister(r *request) (response, error) {
	service, id := r.params["service"], r.params["id"]
	if err := s.registrations.remove(r.Context(), service, id); err != nil {
		return response{}, err
	}
	return response{data: deregisteredBody{Service: service, ID: id}}, nil
}

// listInstances lists the instances of a service, whoever has registered them. A service that was
// asked for lately is watched: the answer comes from memory, also while etcd does not answer, and
// Age bounds how old it is.
func (s *service) listInstances(r *request) (response, error) {
	all, age, err := s.views.instances(r.Context(), r.params["service"])
	if err != nil {
		return response{}, err
	}
	bodies := make([]instanceBody, len(all))
	for n := range all {
		bodies[n] = instanceBodyOf(&all[n])
	}
	return response{data: bodies, header: map[string]string{"Age": strconv.Itoa(int(age.Seconds()))}}, nil
}

// listServices lists the names of all services that have an instance.
func (s *service) listServices(r *request) (response, error) {
	names, err := s.registry.Services(r.Context())
	if err != nil {
		return response{}, err
	}
	if names == nil {
		names = []string{}
	}
	return response{data: names}, nil
}
