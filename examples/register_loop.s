// A loop that lives in registers alone, all of them: nothing but the saved copy brings them back.
// A linear congruential step in each, mixed with its neighbour.
//
// pushcall: entry=main·loop

#include "textflag.h"

#define ROUNDS 40
#define MIX(a, b) \
	LEAQ	12345(a)(b*4), a \
	ROLQ	$7, a

TEXT main·loop(SB), NOSPLIT, $8-0
	MOVQ	$ROUNDS, 0(SP)
	MOVQ	$0x9e3779b97f4a7c15, AX
	MOVQ	$2, BX
	MOVQ	$3, CX
	MOVQ	$4, DX
	MOVQ	$5, SI
	MOVQ	$6, DI
	MOVQ	$7, R8
	MOVQ	$8, R9
	MOVQ	$9, R10
	MOVQ	$10, R11
	MOVQ	$11, R12
	MOVQ	$12, R13
	MOVQ	$13, R14
	MOVQ	$14, R15
loop:
	MIX(BX, AX)
	MIX(CX, BX)
	MIX(DX, CX)
	MIX(SI, DX)
	MIX(DI, SI)
	MIX(R8, DI)
	MIX(R9, R8)
	MIX(R10, R9)
	MIX(R11, R10)
	MIX(R12, R11)
	MIX(R13, R12)
	MIX(R14, R13)
	MIX(R15, R14)
	MIX(AX, R15)
	DECQ	0(SP)
	JNE	loop
	RET
