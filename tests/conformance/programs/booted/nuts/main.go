// The program of the golang-nuts thread on isAsyncSafePoint: loops that call nothing.
package main

import (
	"fmt"
	"sync"
)

func loop(rounds int) int {
	sum := 0
	for i := 0; i < rounds; i++ {
		sum += i
	}
	return sum
}

func main() {
	var wait sync.WaitGroup
	sums := make([]int, 30)
	for g := range sums {
		wait.Add(1)
		go func(g int) {
			defer wait.Done()
			sums[g] = loop(2600000 + g)
		}(g)
	}
	wait.Wait()
	fmt.Println(sums)
}
