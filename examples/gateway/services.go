package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/discovery"
)

// instanceBody is an instance as it is registered, and as it is answered with.
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
}

func instanceBodyOf(i *discovery.Instance) instanceBody {
	return instanceBody{
		Service: i.Service, ID: i.ID, Host: i.Host, Port: i.Port, Scheme: i.Scheme, Version: i.Version, Zone: i.Zone,
		Weight: i.Weight, Tags: i.Tags, Metadata: i.Metadata, Status: string(i.Status), Since: i.Registered,
	}
}

// registerBody is what is registered; the path says the rest.
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

// register registers an instance, which this gateway then keeps registered until it is deregistered here or the gateway
// ends; it does not look whether the instance lives. An instance that it keeps already is changed.
func (s *service) register(r *request) (answer, error) {
	var body registerBody
	if err := decode(r, &body); err != nil {
		return answer{}, err
	}
	i := discovery.Instance{
		Service: r.params["service"], ID: r.params["id"], Host: body.Host, Port: body.Port, Scheme: body.Scheme,
		Version: body.Version, Zone: body.Zone, Weight: body.Weight, Tags: body.Tags, Metadata: body.Metadata,
	}
	isNew, err := s.registrations.put(r.Context(), i)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if isNew {
		status = http.StatusCreated
	}
	i.Status = discovery.Up
	return answer{status: status, data: instanceBodyOf(&i)}, nil
}

// deregister takes an instance back that was registered here.
func (s *service) deregister(r *request) (answer, error) {
	service, id := r.params["service"], r.params["id"]
	if err := s.registrations.remove(r.Context(), service, id); err != nil {
		return answer{}, err
	}
	return answer{data: map[string]string{"serviceName": service, "instanceId": id}}, nil
}

// listInstances is who is registered, whoever has done it. Of a service that is watched the answer is from memory, and goes
// on while etcd is away; Age tells how old it may be.
func (s *service) listInstances(r *request) (answer, error) {
	service := r.params["service"]
	all, age, err := s.views.instances(r.Context(), service)
	if err != nil {
		return answer{}, err
	}
	bodies := make([]instanceBody, len(all))
	for n := range all {
		bodies[n] = instanceBodyOf(&all[n])
	}
	return answer{
		data:   map[string]any{"serviceName": service, "instances": bodies},
		header: map[string]string{"Age": strconv.Itoa(int(age.Seconds()))},
	}, nil
}

// listServices is the names of all services that have an instance.
func (s *service) listServices(r *request) (answer, error) {
	names, err := s.registry.Services(r.Context())
	if err != nil {
		return answer{}, err
	}
	return answer{data: map[string]any{"services": names}}, nil
}
