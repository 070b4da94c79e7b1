// Lists the functions of a Go executable as debug/gosym reads them:
// entry, file and line of the entry, name.
package main

import (
	"bufio"
	"debug/elf"
	"debug/gosym"
	"fmt"
	"os"
)

func main() {
	file, err := elf.Open(os.Args[1])
	check(err)
	data, err := file.Section(".gopclntab").Data()
	check(err)
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, file.Section(".text").Addr))
	check(err)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, f := range table.Funcs {
		path, line, _ := table.PCToLine(f.Entry)
		fmt.Fprintf(out, "%#x\t%s\t%d\t%s\n", f.Entry, path, line, f.Name)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
