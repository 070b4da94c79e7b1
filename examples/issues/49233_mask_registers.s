// golang/go issue 49233: mask registers were lost across signals. A kernel that does not bring K0 to
// K7 back takes them from whoever is interrupted, and no trampoline can help. What saves YMM registers
// only loses them, too; asyncPreempt for AVX-512 (--cpu avx512) keeps them.
//
// Not here: that kernel, darwin's; Linux' frame is used, and the masks forgotten.
//
// pushcall: go=1.27 cpu=avx2 expect=lost:K0,K1,K2,K3,K4,K5,K6,K7
// pushcall broken: cpu=avx2
// pushcall broken-kernel: cpu=avx512 kernel-bug=sigreturn-drops-masks expect=lost:K0,K1,K2,K3,K4,K5,K6,K7
// pushcall mended: cpu=avx512 expect=preserved

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $8-0
	MOVQ	$0x5a5a5a5a5a5a5a5a, AX
	KMOVQ	AX, K1
	MOVQ	$3, CX
loop:
	DECQ	CX
	JNE	loop
	KMOVQ	K1, 0(SP)
	RET
