package main

import (
	"fmt"
	"sort"
	"strings"
)

func main() {
	words := map[string][]int{}
	for i := 0; i < 5000; i++ {
		key := fmt.Sprintf("k%d", i*i%97)
		words[key] = append(words[key], i)
		if i%7 == 0 {
			delete(words, fmt.Sprintf("k%d", i%97))
		}
	}
	keys := make([]string, 0, len(words))
	total := 0
	for key, list := range words {
		keys = append(keys, key)
		total += len(list)
	}
	sort.Strings(keys)
	fmt.Println(len(keys), total, strings.Join(keys[:5], " "))
}
