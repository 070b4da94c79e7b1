//go:build !go1.27

package main

import "simd/archsimd"

func load8(a *[8]int64) archsimd.Int64x8     { return archsimd.LoadInt64x8(a) }
func load4(a *[4]int64) archsimd.Int64x4     { return archsimd.LoadInt64x4(a) }
func store8(x archsimd.Int64x8, a *[8]int64) { x.Store(a) }
func store4(x archsimd.Int64x4, a *[4]int64) { x.Store(a) }
