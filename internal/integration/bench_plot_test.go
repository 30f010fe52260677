package integration_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// panel is one diagram of the plot: time per hand-off against the number of waiters, both
// logarithmic.
type panel struct {
	title     string
	left, top float64
	w, h      float64
	minY      float64 // of the axis, in ns
	maxY      float64
	rows      []benchRow
}

// handOffPlot draws the rows of the mutex.
func handOffPlot(rows []benchRow) string {
	var b strings.Builder
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 400" width="880" height="400" role="img" aria-labelledby="title desc" ` +
		`font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12" fill="#44546a">
<title id="title">Time per hand-off of a mutex against the number of processes</title>
<desc id="desc">Two diagrams with logarithmic axes, one pass and closed loop, each with a line for etcdkit and one for client/v3. The figures are in performance.md.</desc>
<rect width="880" height="400" rx="10" fill="#fbfcfe"/>
`)
	panels := []panel{{title: onePass, left: 70}, {title: closedLoop, left: 500}}
	minY, maxY := math.Inf(1), math.Inf(-1)
	for i := range panels {
		p := &panels[i]
		p.top, p.w, p.h = 70, 350, 260
		p.rows = slices.DeleteFunc(slices.Clone(rows), func(r benchRow) bool { return r.Table != "lock" || r.Name != "mutex"+p.title })
		for _, r := range p.rows {
			for _, v := range slices.Concat(r.Ours["time"], r.Theirs["time"]) {
				minY, maxY = min(minY, v), max(maxY, v)
			}
		}
	}
	for _, p := range panels {
		p.minY, p.maxY = math.Pow(10, math.Floor(math.Log10(minY))), math.Pow(10, math.Ceil(math.Log10(maxY)))
		p.draw(&b)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) x(n float64) float64 { return p.left + p.w*math.Log(n/2)/math.Log(1000.0/2) }

func (p panel) y(v float64) float64 { return p.top + p.h*math.Log(p.maxY/v)/math.Log(p.maxY/p.minY) }

func (p panel) draw(b *strings.Builder) {
	fmt.Fprintf(b, `<text x="%.0f" y="30" font-size="16" font-weight="600" fill="#10233f">Mutex%s</text>`+"\n", p.left, p.title)
	fmt.Fprintf(b, `<text x="%.0f" y="50">time per hand-off</text>`+"\n", p.left)
	for v := p.minY; v <= p.maxY*1.001; v *= 10 {
		fmt.Fprintf(b, `<path d="M%.1f %.1f h%.1f" stroke="#dde4ee"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			p.left, p.y(v), p.w, p.left-8, p.y(v)+4, inUnit("time", v))
	}
	for _, r := range p.rows {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%d</text>`+"\n", p.x(float64(r.N)), p.top+p.h+20, r.N)
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">processes that want the lock</text>`+"\n", p.left+p.w/2, p.top+p.h+42)
	p.line(b, "theirs", "client/v3", "#d08a1d", 1)
	p.line(b, "ours", "etcdkit", "#3b78c4", 2)
}

// line draws the medians of one side, and the range of its samples as a bar. place is that of its
// name in the legend.
func (p panel) line(b *strings.Builder, of, name, color string, place int) {
	var points []string
	for _, r := range p.rows {
		v := r.series(of, "time")
		if len(v) == 0 {
			continue
		}
		x := p.x(float64(r.N))
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, p.y(median(v))))
		fmt.Fprintf(b, `<path d="M%.1f %.1f V%.1f" stroke="%s" stroke-opacity="0.5"/><circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`+"\n",
			x, p.y(slices.Min(v)), p.y(slices.Max(v)), color, x, p.y(median(v)), color)
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), color)
	at := p.left + p.w - 90*float64(place)
	fmt.Fprintf(b, `<path d="M%.1f 46 h16" stroke="%s" stroke-width="2"/><text x="%.1f" y="50">%s</text>`+"\n", at, color, at+22, name)
}

func TestPerformance_PlotShowsEachRow(t *testing.T) {
	t.Parallel()
	var rows []benchRow
	for _, n := range []int{2, 50, 1000} {
		for _, load := range []string{onePass, closedLoop} {
			rows = append(rows, benchRow{Table: "lock", Name: "mutex" + load, N: n, Ours: samples{"time": {1e5, 2e5}}, Theirs: samples{"time": {1e6, 3e6}}})
		}
	}
	plot := handOffPlot(rows)
	assert.Equal(t, 12, strings.Count(plot, "<circle"))
	for _, label := range []string{"100 µs", "1 ms", "10 ms", "etcdkit", "client/v3"} {
		assert.Equal(t, 2, strings.Count(plot, ">"+label+"</text>"), label)
	}
	for _, x := range []string{"70.0", "420.0", "500.0", "850.0"} { // N of 2 and 1,000 are at the edges
		assert.Equal(t, 2, strings.Count(plot, `<circle cx="`+x+`"`), x)
	}
	for d := xml.NewDecoder(strings.NewReader(plot)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			y, err := strconv.ParseFloat(e.Attr[1].Value, 64)
			require.NoError(t, err)
			assert.True(t, 70 <= y && y <= 330, y)
		}
	}
}
