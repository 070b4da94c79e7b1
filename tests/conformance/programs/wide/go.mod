module wide

go 1.26
