// golang/go issues 62433, 68090: prologues made restartable at entry. A prologue that keeps the
// stack bound in a register compares with what the bound was before the preemption: the goroutine
// takes a request that is done with for a want of stack, and doubles the stack. Marked
// UnsafePointRestartAtEntry it goes on at the function's entry and loads the bound again. Runtimes
// know the mark since 1.18; before, it makes the place unsafe.
//
// Not here: the architectures that needed it, whose prologues have a temporary register that no
// preemption keeps; the compiler emits the mark for none on amd64.
//
// pushcall: go=1.22 entry=main·main at-pc=main·check+0xd
// pushcall broken: define=UNMARKED expect=copies:6
// pushcall mended: expect=copies:0 expect=preemptions:6
// pushcall before: go=1.17 expect=copies:0 expect=preemptions:0 expect=cooperative:6

#include "textflag.h"
#include "funcdata.h"

#define stackPreempt $-1314

TEXT main·main(SB), 0, $16-0
	MOVQ	$6, 0(SP)
again:
	MOVQ	(TLS), CX
	MOVQ	stackPreempt, 16(CX)	// gp.stackguard0
	CALL	main·check(SB)
	DECQ	0(SP)
	JNE	again
	RET

TEXT main·check(SB), NOSPLIT|NOFRAME, $0-0
#ifndef UNMARKED
	PCDATA	$0, $-5
#endif
	MOVQ	(TLS), CX
	MOVQ	16(CX), CX	// the bound
	CMPQ	SP, CX
	PCDATA	$0, $-2
	JHI	enough
	CALL	runtime·morestack_noctxt(SB)
	PCDATA	$0, $-1
	JMP	main·check(SB)
enough:
	PCDATA	$0, $-1
	RET
