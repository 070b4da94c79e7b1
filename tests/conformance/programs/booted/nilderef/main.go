package main

import (
	"fmt"
	"os"
)

type point struct{ x, y int }

func read(p *point) (value int, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recovered: %v", r)
		}
	}()
	return p.y, nil
}

func divide(a, b int) (quotient int, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recovered: %v", r)
		}
	}()
	return a / b, nil
}

func main() {
	fmt.Println(read(&point{1, 2}))
	fmt.Println(read(nil))
	fmt.Println(divide(1, 0))
	fmt.Fprintln(os.Stderr, "to standard error")
	os.Exit(3)
}
