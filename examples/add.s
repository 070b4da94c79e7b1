// add(x, y int) (int, bool) with the stack check that every Go function of that size begins with:
// g from TLS up to Go 1.16, from R14 since 1.17. The check is where a goroutine is preempted
// cooperatively; between its instructions Go marks the code unsafe for the other way.
//
// pushcall: entry=main·main expect=RAX:ROUNDS*(ROUNDS+1)/2

#include "textflag.h"
#include "registers.h"

#define ROUNDS 20

// Adds up 1 … ROUNDS, a call each.
TEXT main·main(SB), 0, $48-0
	MOVQ	$0, sum-8(SP)
	MOVQ	$1, BX
loop:
	MOVQ	BX, i-16(SP)
	MOVQ	sum-8(SP), AX
	MOVQ	AX, 0(SP)	// x
	MOVQ	BX, 8(SP)	// y
	CALL	main·add(SB)
	MOVQ	16(SP), AX	// x + y
	MOVQ	AX, sum-8(SP)
	MOVQ	i-16(SP), BX
	INCQ	BX
	CMPQ	BX, $ROUNDS
	JLE	loop
	CLEAR_ALL_BUT_AX
	RET

// z := x + y; println(z); return x + y, true. The call is why there is a stack check.
TEXT main·add(SB), 0, $24-32
	MOVQ	x+0(FP), AX
	MOVQ	y+8(FP), CX
	ADDQ	CX, AX
	MOVQ	AX, 0(SP)	// z
	CALL	main·println(SB)
	MOVQ	x+0(FP), AX
	MOVQ	y+8(FP), CX
	ADDQ	CX, AX
	MOVQ	AX, ret+16(FP)
	MOVB	$1, ret1+24(FP)
	RET

TEXT main·println(SB), NOSPLIT, $0-8
	RET
