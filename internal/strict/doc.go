// Package strict decodes YAML and JSON that people write. Besides what the decoders refuse, it refuses fields that are
// unknown or set twice, a second document, and aliases that expand to a multiple of the document. Its errors name
// fields and lines, but never quote a value, which may be a password.
package strict
