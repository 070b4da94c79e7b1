package main

import (
	"fmt"
	"sync"
	"sync/atomic"
)

func main() {
	var mutex sync.RWMutex
	var once sync.Once
	var count int64
	table := 0
	quit, work := make(chan bool), make(chan int)
	var wait sync.WaitGroup
	for g := 0; g < 8; g++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for {
				select {
				case n := <-work:
					once.Do(func() { atomic.AddInt64(&count, 1000) })
					mutex.Lock()
					table += n
					mutex.Unlock()
				case <-quit:
					return
				}
			}
		}()
	}
	for i := 0; i < 300; i++ {
		work <- i
	}
	close(quit)
	wait.Wait()
	mutex.RLock()
	fmt.Println(table, atomic.LoadInt64(&count))
	mutex.RUnlock()
}
