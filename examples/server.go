// Command server stands for a program of your own: two goroutines that compute, one that spins.
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
)

// hotLoop calls nothing: only a signal can stop it.
//
//go:noinline
func hotLoop(rounds int) int {
	sum := 0
	for i := 0; i < rounds; i++ {
		sum += i ^ sum>>3
	}
	return sum
}

// await cannot be stopped at all: go:nosplit makes every instruction of it an unsafe point.
//
//go:nosplit
//go:noinline
func await(done *atomic.Int32) {
	for done.Load() == 0 {
	}
}

func main() {
	rounds := 10_000_000
	if len(os.Args) > 1 {
		rounds, _ = strconv.Atoi(os.Args[1])
	}
	results := make(chan int)
	for worker := 0; worker < 2; worker++ {
		go func(rounds int) { results <- hotLoop(rounds) }(rounds + worker)
	}
	fmt.Println(<-results, <-results)
	var done atomic.Int32
	go done.Store(1)
	await(&done)
}
