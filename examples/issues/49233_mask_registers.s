// golang/go issue 49233: mask registers were lost across signals. What saves YMM registers only
// loses K0 to K7, too; asyncPreempt for AVX-512 (--cpu avx512) keeps them.
//
// pushcall: go=1.27 cpu=avx2 expect=lost:K0,K1,K2,K3,K4,K5,K6,K7
// pushcall broken: cpu=avx2
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
