// Vector code for GOEXPERIMENT=simd: registers that only the real processor has.
package main

// wide has x and y in ZMM registers, and m in a mask register.
//
//go:noinline
func wide(a, b *[8]int64, n int) {
	x, y := load8(a), load8(b)
	m := y.Less(x)
	for ; n > 0; n-- {
		x = x.Add(y).Masked(m)
	}
	store8(x, a)
}

// narrow has them in YMM registers.
//
//go:noinline
func narrow(a, b *[4]int64, n int) {
	x, y := load4(a), load4(b)
	for ; n > 0; n-- {
		x = x.Add(y)
	}
	store4(x, a)
}

func main() {
	a, b := [8]int64{1, 2, 3}, [8]int64{0, 1, 2}
	c, d := [4]int64{1, 2, 3}, [4]int64{0, 1, 2}
	wide(&a, &b, 3)
	narrow(&c, &d, 3)
	println(a[0], c[0])
}
