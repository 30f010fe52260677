package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// document is a parsed OpenAPI description.
type document map[string]any

var described = func() document {
	var d document
	if err := yaml.UnmarshalStrict(openapi, &d); err != nil {
		panic(err)
	}
	return d
}()

// at follows a path, and the references on it.
func (d document) at(from any, names ...string) map[string]any {
	node, _ := from.(map[string]any)
	for _, name := range append(names, "") {
		if ref, ok := node["$ref"].(string); ok {
			parts := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
			node = d.at(map[string]any(d), parts...)
		}
		if name != "" {
			node, _ = node[name].(map[string]any)
		}
	}
	return node
}

// routes are the paths and methods that are described.
func (d document) routes() (out []string) {
	for path, item := range d.at(map[string]any(d), "paths") {
		for method := range d.at(item) {
			out = append(out, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(out)
	return out
}

var plainRoutes = (&service{}).table()

// pathOf is the described path that a path of a request belongs to.
func pathOf(path string) string {
	segments, _, err := segmentsOf(path)
	if err != nil {
		return ""
	}
	route, _ := (&service{routes: plainRoutes}).match(segments)
	if route == nil {
		return ""
	}
	return route.pattern
}

// check holds an answer against the description.
func (d document) check(tb testing.TB, method, path string, r *reply) {
	tb.Helper()
	if method == "HEAD" {
		method = "GET"
	}
	if strings.HasPrefix(string(r.body), "400 Bad Request") || strings.HasPrefix(string(r.body), "431 Request Header") {
		return // what net/http says itself
	}
	said := fmt.Sprintf("%s %.200s: %d %.500s", method, path, r.status, r.body)
	pattern := pathOf(path)
	operation := d.at(map[string]any(d), "paths", pattern, strings.ToLower(method))
	if operation == nil || strings.ToUpper(method) != method {
		assert.Contains(tb, []int{400, 401, 403, 404, 405, 431}, r.status, said)
		return
	}
	answer := d.at(operation, "responses", strconv.Itoa(r.status))
	if !assert.NotNil(tb, answer, "not described: "+said) {
		return
	}
	d.checkHeaders(tb, answer, r, said)
	kind := r.header.Get("Content-Type")
	plain, _, _ := strings.Cut(kind, ";")
	content := d.at(answer, "content", plain)
	if !assert.NotNil(tb, content, kind+": "+said) || plain != "application/json" || len(r.body) == 0 {
		return
	}
	var value any
	require.NoError(tb, json.Unmarshal(r.body, &value), said)
	if err := d.valid(d.at(content, "schema"), value, "$"); err != nil {
		assert.Fail(tb, err.Error(), said)
	}
}

// checkHeaders holds the headers of the gateway's own against those that an answer is described
// with.
func (d document) checkHeaders(tb testing.TB, answer map[string]any, r *reply, said string) {
	tb.Helper()
	headers := d.at(answer, "headers")
	for name := range headers {
		if d.at(headers, name)["required"] == true {
			assert.NotEmpty(tb, r.header.Get(name), "no %s: %s", name, said)
		}
	}
	for _, name := range []string{"ETag", "Age", revisionName} {
		if r.header.Get(name) != "" {
			assert.Contains(tb, headers, name, said)
		}
	}
}

// valid holds a value against a schema, as far as this description uses them.
func (d document) valid(schema map[string]any, v any, where string) error {
	if choices, ok := schema["oneOf"].([]any); ok {
		return d.validOne(choices, v, where)
	}
	if want, ok := schema["const"]; ok && !reflect.DeepEqual(want, v) {
		return fmt.Errorf("%s is %v, not %v", where, v, want)
	}
	if all, ok := schema["enum"].([]any); ok && !slices.Contains(all, v) {
		return fmt.Errorf("%s is %v, none of %v", where, v, all)
	}
	switch schema["type"] {
	case "object":
		return d.validObject(schema, v, where)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s is no array", where)
		}
		for i, one := range list {
			if err := d.valid(d.at(schema, "items"), one, where+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case "string", "integer", "boolean", "null":
		kinds := map[any]reflect.Kind{"string": reflect.String, "integer": reflect.Float64, "boolean": reflect.Bool, "null": reflect.Invalid}
		if reflect.ValueOf(v).Kind() != kinds[schema["type"]] {
			return fmt.Errorf("%s is %v, not a %v", where, v, schema["type"])
		}
	}
	return nil
}

// validOne holds a value against schemas of which exactly one must accept it.
func (d document) validOne(choices []any, v any, where string) error {
	var errs []error
	for _, choice := range choices {
		if err := d.valid(d.at(choice), v, where); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) != len(choices)-1 {
		return fmt.Errorf("%s: not exactly one of %d schemas accepts it: %w", where, len(choices), errors.Join(errs...))
	}
	return nil
}

func (d document) validObject(schema map[string]any, v any, where string) error {
	object, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is no object", where)
	}
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := object[name.(string)]; !ok {
			return fmt.Errorf("%s has no %v", where, name)
		}
	}
	for name, value := range object {
		of := d.at(schema, "properties", name)
		if of == nil {
			of = d.at(schema, "additionalProperties")
		}
		if of == nil {
			return fmt.Errorf("%s has a %s that is not described", where, name)
		}
		if err := d.valid(of, value, where+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func TestOpenAPI_DescribesTheRoutes(t *testing.T) {
	t.Parallel()
	var served []string
	for _, r := range plainRoutes {
		for method := range r.methods {
			served = append(served, method+" "+r.pattern)
		}
	}
	slices.Sort(served)
	assert.Equal(t, served, described.routes())
}

func TestOpenAPI_DescribesTheParameters(t *testing.T) {
	t.Parallel()
	for _, r := range plainRoutes {
		for method, e := range r.methods {
			query, inPath, headers := []string{}, []string{}, []string{}
			list, _ := described.at(map[string]any(described), "paths", r.pattern, strings.ToLower(method))["parameters"].([]any)
			for _, one := range list {
				p := described.at(one)
				switch name, _ := p["name"].(string); p["in"] {
				case "query":
					query = append(query, name)
				case "path":
					inPath = append(inPath, "{"+name+"}")
				case "header":
					headers = append(headers, name)
				}
			}
			assert.ElementsMatch(t, e.query, query, method+" "+r.pattern)
			assert.ElementsMatch(t, e.conditions, headers, method+" "+r.pattern)
			for part := range strings.SplitSeq(r.pattern, "/") {
				if strings.HasPrefix(part, "{") {
					assert.Contains(t, inPath, part, method+" "+r.pattern)
				}
			}
		}
	}
}

func TestOpenAPI_DescribesTheBodies(t *testing.T) {
	t.Parallel()
	for schema, body := range map[string]any{
		"Put": putBody{}, "CompareAndSwap": casBody{}, "Register": registerBody{}, "Entry": entryBody{}, "Written": writtenBody{},
		"Page": listBody{}, "Deleted": deletedBody{}, "Deregistered": deregisteredBody{}, "Info": infoBody{}, "NotSwapped": envelope{}, "Instance": instanceBody{}, "Health": healthBody{}, "Member": memberBody{}, "Error": envelope{},
	} {
		var fields []string
		for f := range fieldsOf(reflect.TypeOf(body)) {
			fields = append(fields, f)
		}
		properties := described.at(map[string]any(described), "components", "schemas", schema, "properties")
		assert.ElementsMatch(t, slices.Collect(maps.Keys(properties)), fields, schema)
	}
}

func TestOpenAPI_IsComplete(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "3.1.0", described["openapi"])
	var refs func(v any)
	used := map[string]bool{}
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				assert.NotNil(t, described.at(v), ref)
			}
			for _, one := range v {
				refs(one)
			}
		case []any:
			for _, one := range v {
				refs(one)
			}
		}
	}
	refs(map[string]any(described))
	for _, kind := range []string{"parameters", "headers", "responses", "schemas"} {
		for name := range described.at(map[string]any(described), "components", kind) {
			assert.True(t, used["#/components/"+kind+"/"+name], "nothing refers to %s %s", kind, name)
		}
	}
	ids := map[string]bool{}
	for _, route := range described.routes() {
		method, path, _ := strings.Cut(route, " ")
		id, _ := described.at(map[string]any(described), "paths", path, strings.ToLower(method))["operationId"].(string)
		assert.False(t, ids[id] || id == "", id)
		ids[id] = true
	}
	info := fmt.Sprint(described.at(map[string]any(described), "info")["description"])
	for _, dir := range reservedDirs() {
		assert.Contains(t, info, dir)
	}
	limit := described.at(map[string]any(described), "components", "parameters", "Limit", "schema")
	assert.InDelta(t, 1000, limit["maximum"], 0, "the default of the settings")
}
