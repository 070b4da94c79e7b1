package main

import (
	"fmt"
	"time"
)

func main() {
	start := time.Now()
	ticker := time.NewTicker(2 * time.Millisecond)
	ticks := 0
	for range ticker.C {
		if ticks++; ticks == 5 {
			ticker.Stop()
			break
		}
	}
	late := time.AfterFunc(time.Hour, func() { panic("an hour has not passed") })
	fmt.Println(ticks, time.Since(start) >= 10*time.Millisecond, late.Stop())
	time.Sleep(3 * time.Millisecond)
	fmt.Println(time.Since(start) >= 13*time.Millisecond)
}
