package main

import _ "embed" // for the description

//go:embed openapi.yaml
var openapi []byte

// description is GET /openapi.yaml.
func (s *service) description(*request) (answer, error) {
	return answer{bare: openapi, contentType: "application/yaml"}, nil
}
