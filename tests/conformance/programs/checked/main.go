package main

import "fmt"

type list struct {
	next  *list
	value int
}

//go:noinline
func integers(a, b, c uint64) uint64 {
	d, e, f := a^b, b+c, c-a
	for i := uint64(0); i < 6; i++ {
		a, b = a*3+i, b^(a>>7)
		c += d<<3 | e>>61
		d, e = e-f, d+a
		f ^= b * c
	}
	return a ^ b ^ c ^ d ^ e ^ f
}

//go:noinline
func floats(x, y float64, z float32) float64 {
	s, t := x*y, x-y
	for i := 0; i < 5; i++ {
		s = s*0.5 + t
		t = t/3 - float64(z)
		z = z*z + float32(s)
	}
	return s + t + float64(z)
}

//go:noinline
func pointers(l *list) int {
	sum := 0
	for p := l; p != nil; p = p.next {
		sum = sum*31 + p.value
		p.value = sum
	}
	return sum
}

//go:noinline
func slices(a, b []int) int {
	last := 0
	for i := range a {
		if i < len(b) && b[i] > last {
			last = b[i]
		}
		a[i] += last
	}
	return last + len(a)
}

func main() {
	var l *list
	for i := 0; i < 6; i++ {
		l = &list{l, i * 7}
	}
	fmt.Println(integers(0x0123456789abcdef, 0xfedcba9876543210, 0x5555aaaa5555aaaa))
	fmt.Println(floats(1.5, 2.25, 3.125))
	fmt.Println(pointers(l))
	fmt.Println(slices([]int{5, 3, 8, 1, 9, 2}, []int{4, 7, 1, 9}))
}
