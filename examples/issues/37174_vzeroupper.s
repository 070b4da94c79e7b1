// golang/go issue 37174: on darwin a signal's return left the upper halves of the YMM registers
// dirty, and each SSE instruction behind it was slow. From 1.14 to 1.23 asyncPreempt there runs
// VZEROUPPER once it has saved the general registers. XMM registers survive that, and compiled code
// uses no more. Code that holds YMM registers loses their upper halves: it must not be preempted,
// which is so because only assembly uses them.
//
// Not here: how slow; an instruction takes 1 ns, whatever the vectors hold.
//
// pushcall: go=1.22 goos=darwin
// pushcall sse: expect=preserved
// pushcall avx: define=AVX expect=lost:YMM0,YMM1,YMM2,YMM3,YMM4,YMM5,YMM6,YMM7,YMM8,YMM9,YMM10,YMM11,YMM12,YMM13,YMM14,YMM15
// pushcall avx-as-assembly: define=AVX as-assembly=1 at=5 expect=ends expect=refused:1

#include "textflag.h"

DATA	main·data+0(SB)/8, $0x0123456789abcdef
DATA	main·data+8(SB)/8, $0x0f1e2d3c4b5a6978
DATA	main·data+16(SB)/8, $0x1122334455667788
DATA	main·data+24(SB)/8, $0x99aabbccddeeff00
GLOBL	main·data(SB), NOPTR, $32

TEXT main·main(SB), NOSPLIT, $0-0
#ifdef AVX
	VMOVUPS	main·data(SB), Y0
	VMOVUPS	Y0, Y9
#else
	MOVUPS	main·data(SB), X9
#endif
	MOVQ	$3, CX
loop:
	DECQ	CX
	JNE	loop
#ifdef AVX
	VMOVUPS	Y9, main·data(SB)
	VZEROUPPER
#else
	MOVUPS	X9, main·data(SB)
#endif
	RET
