package main

type pair struct{ a, b int }

//go:noinline
func sum(xs []int) int {
	s := 0
	for _, x := range xs {
		s += x
	}
	return s
}

//go:noinline
func spin(n int) int {
	i := 0
	for i < n {
		i += 1 + i&1
	}
	return i
}

var table = [...]float64{1.5, 2.5, 3.5}

//go:noinline
func scale(n int) float64 { return table[n%3] * 2.25 }

//go:noinline
func (p *pair) add(n int) int { return p.a + sum([]int{n, p.b}) }

func main() {
	p := pair{1, 2}
	n := p.add(spin(10)) + int(scale(2))
	if n != 21 {
		panic(n)
	}
}
