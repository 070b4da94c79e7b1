module example.com/nuts

go 1.19
