module example.com/nilderef

go 1.19
