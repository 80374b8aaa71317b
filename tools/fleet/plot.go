package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// chart is a plot of lines with a logarithmic x axis and a y axis from zero.
type chart struct {
	title, x, y string
	series      []series
}

type series struct {
	name   string
	points []point
}

type point struct{ x, y float64 }

func plotCommand(_ context.Context, args []string) error {
	fs := flag.NewFlagSet("plot", flag.ContinueOnError)
	var c chart
	fs.StringVar(&c.title, "title", "", "what is shown")
	fs.StringVar(&c.x, "x", "", "name of the x axis")
	fs.StringVar(&c.y, "y", "", "name of the y axis")
	out := fs.String("o", "", "file to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" {
		return errors.New("plot needs -o")
	}
	var err error
	if c.series, err = readSeries(os.Stdin); err != nil {
		return err
	}
	return os.WriteFile(*out, []byte(c.svg()), 0o644)
}

// readSeries reads lines of NAME, x and y with tabs between them.
func readSeries(r io.Reader) ([]series, error) {
	var out []series
	for in := bufio.NewScanner(r); in.Scan(); {
		f := strings.Split(in.Text(), "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("line %q: want name, x and y with tabs between them", in.Text())
		}
		x, errX := strconv.ParseFloat(f[1], 64)
		y, errY := strconv.ParseFloat(f[2], 64)
		if err := errors.Join(errX, errY); err != nil || x <= 0 || y < 0 {
			return nil, fmt.Errorf("line %q: want x above 0 and y not below: %w", in.Text(), err)
		}
		i := slices.IndexFunc(out, func(s series) bool { return s.name == f[0] })
		if i < 0 {
			i = len(out)
			out = append(out, series{name: f[0]})
		}
		out[i].points = append(out[i].points, point{x, y})
	}
	if len(out) == 0 {
		return nil, errors.New("no lines to draw")
	}
	return out, nil
}

// Sizes of a chart, in pixels.
const (
	chartWidth, chartHeight  = 720, 400
	left, right, top, bottom = 70, 170, 44, 60
	plotWidth, plotHeight    = chartWidth - left - right, chartHeight - top - bottom
	chartFont                = "font-family='system-ui,sans-serif' font-size='12' fill='#24292f'"
	chartGrid                = "stroke='#d0d7de' stroke-width='1'"
)

// svg draws the chart, on white so that it can be read on any page.
func (c chart) svg() string {
	var b strings.Builder
	colors := []string{"#0550ae", "#bc4c00", "#1a7f37", "#8250df", "#cf222e"}
	minX, maxX, maxY := c.bounds()
	step := tick(maxY)
	maxY = math.Ceil(maxY/step) * step
	px := func(x float64) float64 {
		if maxX == minX {
			return left + plotWidth/2
		}
		return left + plotWidth*(math.Log10(x)-math.Log10(minX))/(math.Log10(maxX)-math.Log10(minX))
	}
	py := func(y float64) float64 { return top + plotHeight*(1-y/maxY) }
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format, args...) }

	p("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d' role='img'>\n", chartWidth, chartHeight, chartWidth, chartHeight)
	p("<title>%s</title>\n<rect width='100%%' height='100%%' fill='white'/>\n", html.EscapeString(c.title))
	p("<text x='%d' y='24' %s font-weight='600'>%s</text>\n", left, chartFont, html.EscapeString(c.title))
	for y := 0.0; y <= maxY+step/2; y += step {
		p("<line x1='%d' y1='%.1f' x2='%d' y2='%.1f' %s/>\n", left, py(y), left+plotWidth, py(y), chartGrid)
		p("<text x='%d' y='%.1f' %s text-anchor='end'>%s</text>\n", left-8, py(y)+4, chartFont, number(y))
	}
	for _, x := range c.xs() {
		p("<line x1='%.1f' y1='%d' x2='%.1f' y2='%d' %s/>\n", px(x), top, px(x), top+plotHeight, chartGrid)
		p("<text x='%.1f' y='%d' %s text-anchor='middle'>%s</text>\n", px(x), top+plotHeight+18, chartFont, number(x))
	}
	p("<text x='%d' y='%d' %s text-anchor='middle'>%s</text>\n", left+plotWidth/2, chartHeight-14, chartFont, html.EscapeString(c.x))
	p("<text transform='translate(16 %d) rotate(-90)' %s text-anchor='middle'>%s</text>\n", top+plotHeight/2, chartFont, html.EscapeString(c.y))
	for i, s := range c.series {
		color := colors[i%len(colors)]
		var line []string
		for _, q := range s.points {
			line = append(line, fmt.Sprintf("%.1f,%.1f", px(q.x), py(q.y)))
			p("<circle cx='%.1f' cy='%.1f' r='3.5' fill='%s'><title>%s: %s</title></circle>\n", px(q.x), py(q.y), color, number(q.x), number(q.y))
		}
		p("<polyline points='%s' fill='none' stroke='%s' stroke-width='2'/>\n", strings.Join(line, " "), color)
		y := top + 8 + 20*i
		p("<rect x='%d' y='%d' width='14' height='4' fill='%s'/><text x='%d' y='%d' %s>%s</text>\n", left+plotWidth+16, y, color, left+plotWidth+36, y+6, chartFont, html.EscapeString(s.name))
	}
	p("</svg>\n")
	return b.String()
}

func (c chart) bounds() (minX, maxX, maxY float64) {
	minX = math.Inf(1)
	for _, s := range c.series {
		for _, q := range s.points {
			minX, maxX, maxY = min(minX, q.x), max(maxX, q.x), max(maxY, q.y)
		}
	}
	return minX, maxX, max(maxY, 1e-9)
}

// xs are all x that have a point.
func (c chart) xs() []float64 {
	var out []float64
	for _, s := range c.series {
		for _, q := range s.points {
			out = append(out, q.x)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// tick is the distance of the y axis' lines: 1, 2 or 5 times a power of ten, four to
// ten of them.
func tick(maxY float64) float64 {
	base := math.Pow(10, math.Floor(math.Log10(maxY)))
	for _, f := range []float64{.1, .2, .5, 1} {
		if maxY/(base*f) <= 8 {
			return base * f
		}
	}
	return 2 * base
}

func number(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if whole, part, ok := strings.Cut(s, "."); ok && len(part) > 3 {
		s = strconv.FormatFloat(v, 'g', 3, 64)
		_ = whole
	}
	if v >= 1000 && v == math.Trunc(v) {
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
	}
	return s
}
