package main

import "runtime/debug"

// infoBody says which gateway this is and which etcd it serves.
type infoBody struct {
	Version   string   `json:"version"`
	Namespace string   `json:"namespace"`
	Endpoints []string `json:"endpoints"`
}

// info serves GET /api/etcd/info. It sends nothing to etcd and shows no credentials.
func (s *service) info(*request) (response, error) {
	return response{data: infoBody{
		Version: buildVersion(), Namespace: s.client.KV().Dir(), Endpoints: s.client.Stats().Endpoints,
	}}, nil
}

// buildVersion returns the version that the program was built from, "(devel)" outside a release.
func buildVersion() string {
	build, ok := debug.ReadBuildInfo()
	if !ok || build.Main.Version == "" {
		return "(devel)"
	}
	return build.Main.Version
}
