// golang/go issue 81209: with GOEXPERIMENT=simd asyncPreempt saves YMM registers where the processor
// has AVX2. Code that needs no more than AVX uses them, too: on a processor with AVX and without
// AVX2 their upper halves are lost. With --cpu avx2 all is preserved.
//
// pushcall: go=1.27 cpu=avx expect=lost:YMM0,YMM1,YMM2,YMM3,YMM4,YMM5,YMM6,YMM7,YMM8,YMM9,YMM10,YMM11,YMM12,YMM13,YMM14,YMM15
// pushcall broken: cpu=avx
// pushcall mended: cpu=avx2 expect=preserved

#include "textflag.h"

DATA	main·data+0(SB)/8, $0x0123456789abcdef
DATA	main·data+8(SB)/8, $0x0f1e2d3c4b5a6978
DATA	main·data+16(SB)/8, $0x1122334455667788
DATA	main·data+24(SB)/8, $0x99aabbccddeeff00
GLOBL	main·data(SB), RODATA|NOPTR, $32

TEXT main·main(SB), NOSPLIT, $32-0
	VMOVUPS	main·data(SB), Y0
	VMOVUPS	Y0, Y9
	MOVQ	$3, CX
loop:
	DECQ	CX
	JNE	loop
	VMOVUPS	Y9, 0(SP)
	VZEROUPPER
	RET
