package codec

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"sync"

	"github.com/etcdkit/etcdkit/kv"
)

// gzipHeader is the prefix of a compressed value. A gzip stream follows it.
const gzipHeader = "\x00gz\x01"

// maxUnzipped is the maximum size of a decompressed value.
const maxUnzipped = 64 << 20

// Gzip compresses values of more than the given number of bytes, if that makes them smaller. Values
// stored without the layer can be read. Values of more than 64 MiB cannot be written
// (kv.ErrTooLarge), and values that decompress to more than 64 MiB cannot be read ([ErrFormat]).
func Gzip(above int) Layer {
	return &gzipLayer{above: above, writers: sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}}
}

type gzipLayer struct {
	above   int
	writers sync.Pool
}

// Wrap compresses b.
func (l *gzipLayer) Wrap(_ string, b []byte) ([]byte, error) {
	switch {
	case l.above < 0:
		return nil, layerError(kv.ErrInvalid, fmt.Sprintf("gzip: a threshold of %d bytes", l.above))
	case len(b) > maxUnzipped:
		return nil, layerError(kv.ErrTooLarge, fmt.Sprintf("gzip: %d bytes, the limit is %d", len(b), maxUnzipped))
	}
	ambiguous := bytes.HasPrefix(b, []byte(gzipHeader)) // looks compressed but is not
	if len(b) <= l.above && !ambiguous {
		return b, nil
	}
	var out bytes.Buffer
	out.WriteString(gzipHeader)
	w := l.writers.Get().(*gzip.Writer)
	defer l.writers.Put(w)
	w.Reset(&out)
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if out.Len() >= len(b) && !ambiguous {
		return b, nil
	}
	return out.Bytes(), nil
}

// Unwrap decompresses b if it is compressed.
func (l *gzipLayer) Unwrap(_ string, b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte(gzipHeader)) {
		return b, nil
	}
	in := bytes.NewReader(b[len(gzipHeader):])
	r, err := gzip.NewReader(in)
	if err != nil {
		return nil, layerError(ErrFormat, "gzip: the compressed value is damaged")
	}
	r.Multistream(false)
	out, err := io.ReadAll(io.LimitReader(r, maxUnzipped+1))
	switch {
	case err != nil, len(out) <= maxUnzipped && in.Len() > 0:
		return nil, layerError(ErrFormat, "gzip: the compressed value is damaged")
	case len(out) > maxUnzipped:
		return nil, layerError(ErrFormat, fmt.Sprintf("gzip: the value is larger than %d bytes", maxUnzipped))
	}
	return out, nil
}
