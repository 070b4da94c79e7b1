// A stack that grows: 40 calls deep it needs more than the 2 KiB that a goroutine starts with.
// newstack copies it to one of twice the size, and again; main's pointer to its own variable and
// each saved BP move along. `pushcall run --json --events` has the copies as StackCopied.
//
// pushcall: entry=main·main expect=RAX:DEPTH*(DEPTH+1)/2

#include "textflag.h"
#include "registers.h"

#define DEPTH 40

TEXT main·main(SB), 0, $32-0
	MOVQ	$0, sum-8(SP)
	LEAQ	sum-8(SP), AX
	MOVQ	AX, 8(SP)	// &sum, which is on this stack
	MOVQ	$DEPTH, 0(SP)
	CALL	main·add(SB)
	MOVQ	sum-8(SP), AX
	CLEAR_ALL_BUT_AX
	RET

// add(n, sum): *sum += n, and the same of n-1.
TEXT main·add(SB), 0, $72-16
	MOVQ	n+0(FP), BX
	TESTQ	BX, BX
	JEQ	done
	MOVQ	sum+8(FP), CX
	ADDQ	BX, (CX)
	DECQ	BX
	MOVQ	BX, 0(SP)
	MOVQ	CX, 8(SP)
	CALL	main·add(SB)
done:
	RET
