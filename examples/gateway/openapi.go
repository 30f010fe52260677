package main

import _ "embed" // for openapi.yaml

//go:embed openapi.yaml
var openapi []byte

// description serves GET /openapi.yaml.
func (s *service) description(*request) (response, error) {
	return response{bare: openapi, contentType: "application/yaml"}, nil
}
