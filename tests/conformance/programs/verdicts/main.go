// One of each kind of code that the compiler marks differently for asynchronous preemption.
package main

import (
	"crypto/sha256"
	"fmt"
	"math"
	"math/big"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

type node struct {
	next  *node
	left  *node
	value int
}

type shape interface{ area() float64 }
type square struct{ side float64 }
type circle struct{ radius float64 }

func (s square) area() float64  { return s.side * s.side }
func (c *circle) area() float64 { return math.Pi * c.radius * c.radius }

type number interface{ ~int | ~int64 | ~float64 }

func countedSum(values []uint64) uint64
func spin(n uint64) uint64
func fill(p *byte, n uintptr)
func framed(n uint64) uint64

var root *node
var sink any
var counter atomic.Int64

//go:noinline
func tightLoop(n int) (sum int) {
	for i := 0; i < n; i++ {
		sum ^= i * 7
	}
	return
}

//go:noinline
func writeBarriers(n int) {
	for i := 0; i < n; i++ {
		root = &node{next: root, left: root, value: i}
		root.next, root.left = root.left, root.next
	}
}

//go:noinline
func maps(n int) int {
	m := map[string]int{}
	small := map[int]*node{}
	for i := 0; i < n; i++ {
		m[fmt.Sprint(i)] = i
		small[i] = &node{value: i}
		delete(small, i/2)
	}
	for _, v := range small {
		n += v.value
	}
	return len(m) + n
}

//go:noinline
func channels(n int) (sum int) {
	in, out := make(chan int, 4), make(chan int)
	var wait sync.WaitGroup
	for w := 0; w < 3; w++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for v := range in {
				select {
				case out <- v * v:
				case <-time.After(time.Second):
					return
				}
			}
		}()
	}
	go func() {
		for i := 0; i < n; i++ {
			in <- i
		}
		close(in)
		wait.Wait()
		close(out)
	}()
	for v := range out {
		sum += v
	}
	return
}

//go:noinline
func deferred(n int) (result string) {
	defer func() {
		if r := recover(); r != nil {
			result = fmt.Sprint("recovered: ", r)
		}
	}()
	for i := 0; i < n; i++ {
		defer func(i int) { counter.Add(int64(i)) }(i)
	}
	return []string{"a", "b"}[n]
}

//go:noinline
func closures(n int) func() int {
	state := n
	return func() int { state++; return state }
}

func mapped[T, U any](values []T, f func(T) U) []U {
	out := make([]U, 0, len(values))
	for _, v := range values {
		out = append(out, f(v))
	}
	return out
}

//go:noinline
func largest[T number](values ...T) (m T) {
	for _, v := range values {
		if v > m {
			m = v
		}
	}
	return
}

//go:noinline
func floats(values []float64) (total float64) {
	for i, v := range values {
		total += math.Sqrt(v)*math.FMA(v, 2, 1) - float64(float32(i))
	}
	return math.Floor(total)
}

//go:noinline
func reflection(v any) (out []string) {
	value := reflect.ValueOf(v)
	for i := 0; i < value.NumField(); i++ {
		out = append(out, value.Type().Field(i).Name)
	}
	swap := reflect.MakeFunc(reflect.TypeOf(func(a, b int) (int, int) { return 0, 0 }),
		func(in []reflect.Value) []reflect.Value { return []reflect.Value{in[1], in[0]} })
	a, b := swap.Interface().(func(a, b int) (int, int))(1, 2)
	return append(out, fmt.Sprint(a, b))
}

//go:noinline
func atomics(p *int64, q *unsafe.Pointer, n int) int64 {
	for i := 0; i < n; i++ {
		atomic.AddInt64(p, 1)
		for !atomic.CompareAndSwapInt64(p, atomic.LoadInt64(p), int64(i)) {
		}
		atomic.StorePointer(q, unsafe.Pointer(&node{value: i}))
	}
	return *p
}

//go:noinline
func bigFrame(n int) int {
	var room [6000]int
	for i := range room {
		room[i] = i * n
	}
	return room[n] + bigger(&room)
}

//go:noinline
func bigger(room *[6000]int) int {
	copied := *room
	return copied[17] + len(copied)
}

//go:noinline
func jumpTable(op int, a, b int) int {
	switch op {
	case 0:
		return a + b
	case 1:
		return a - b
	case 2:
		return a * b
	case 3:
		return a / (b | 1)
	case 4:
		return a % (b | 1)
	case 5:
		return a & b
	case 6:
		return a | b
	case 7:
		return a ^ b
	case 8:
		return a << (uint(b) & 7)
	case 9:
		return a >> (uint(b) & 7)
	}
	return 0
}

//go:nosplit
func noSplit(n int) (sum int) {
	for i := 0; i < n; i++ {
		sum += i
	}
	return
}

//go:noinline
func pointers(p unsafe.Pointer, n uintptr) byte {
	return *(*byte)(unsafe.Pointer(uintptr(p) + n))
}

//go:noinline
func strs(text string) string {
	words := strings.Fields(strings.Repeat(text+" ", 3))
	sort.Strings(words)
	return strings.Join(words, "/")
}

func main() {
	n := len(os.Args) + 2
	data := make([]byte, 100)
	fill(&data[0], uintptr(len(data)))
	var cell int64
	var pointer unsafe.Pointer
	shapes := []shape{square{2}, &circle{3}}
	fmt.Println(tightLoop(n), maps(n), channels(n), deferred(n), closures(n)(), data[99])
	writeBarriers(n)
	fmt.Println(mapped([]int{1, 2}, func(i int) string { return fmt.Sprint(i) }), largest(1, 2, n))
	fmt.Println(largest(1.5, 2.0), floats([]float64{1, 2, 3}), reflection(node{}))
	fmt.Println(atomics(&cell, &pointer, n), bigFrame(n), jumpTable(n, 3, 4), noSplit(n))
	fmt.Println(pointers(unsafe.Pointer(&data[0]), 3), strs("b a"), mapped(shapes, shape.area))
	fmt.Println(countedSum([]uint64{1, 2, 3}), spin(9), framed(5), root.value)
	fmt.Println(new(big.Int).Exp(big.NewInt(3), big.NewInt(99), nil), sha256.Sum256(data))
	sink = shapes
}
