package main

import "fmt"

func deep(n int) int {
	var frame [100]int
	frame[n%100] = n
	if n == 0 {
		return 0
	}
	pointer := &frame
	return deep(n-1) + pointer[n%100]
}

func main() {
	results := make(chan int)
	for g := 0; g < 4; g++ {
		go func() { results <- deep(3000) }()
	}
	for g := 0; g < 4; g++ {
		fmt.Println(<-results)
	}
}
