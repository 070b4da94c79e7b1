// The sum of two numbers of 512 bits, over and over: the carry lives in RFLAGS from one ADCQ to
// the next. LEAQ and DECQ count without touching it, MOVQ moves without touching it.
//
// pushcall: entry=main·main

#include "textflag.h"

#define ROUNDS 8

DATA	main·x+0(SB)/8, $0xffffffffffffffff
DATA	main·x+8(SB)/8, $0xffffffffffffffff
DATA	main·x+16(SB)/8, $0x0123456789abcdef
DATA	main·x+24(SB)/8, $0xfedcba9876543210
DATA	main·x+32(SB)/8, $0xffffffffffffffff
DATA	main·x+40(SB)/8, $0x7fffffffffffffff
DATA	main·x+48(SB)/8, $0x8000000000000000
DATA	main·x+56(SB)/8, $0x0000000000000001
GLOBL	main·x(SB), NOPTR, $64

GLOBL	main·sum(SB), NOPTR, $64

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$ROUNDS, DX
round:
	LEAQ	main·x(SB), SI
	LEAQ	main·sum(SB), DI
	MOVQ	$8, CX
	XORL	AX, AX	// clears the carry
word:
	MOVQ	0(DI), AX
	ADCQ	0(SI), AX
	MOVQ	AX, 0(DI)
	LEAQ	8(SI), SI
	LEAQ	8(DI), DI
	DECQ	CX	// leaves the carry alone
	JNE	word
	SBBQ	BX, BX	// BX = -carry
	DECQ	DX
	JNE	round
	RET
