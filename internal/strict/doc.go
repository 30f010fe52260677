// Package strict decodes YAML and JSON that people write. In addition to the checks of the
// decoders, it rejects fields that are unknown or set twice, a second document, and aliases that
// expand to a multiple of the document. Its errors contain the names of fields and line numbers,
// but never values, which may be secret.
package strict
