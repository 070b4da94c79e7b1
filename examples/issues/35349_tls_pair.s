// golang/go issues 35349, 67108: g is loaded from thread-local storage by two instructions where
// one cannot do it (position-independent code, some systems). Preempted between them and resumed on
// another thread, the goroutine goes on with the first thread's address, and finds the g that runs
// there. The compiler marks the second instruction unsafe; the assembler does so since then.
//
// Here the first instruction reads the thread's FS base. Each goroutine counts how often the g that
// it found is not its own.
//
// pushcall: go=1.22 entry=main·main goroutines=3 procs=2 at-pc=main·main+0xc expect=RAX:0
// pushcall broken: define=UNMARKED expect=RAX:0 expect=fails expect=preemptions:>0
// pushcall mended: expect=RAX:0 expect=preemptions:0 expect=refused:>20

#include "textflag.h"
#include "funcdata.h"

TEXT main·main(SB), NOSPLIT, $0-0
	XORL	AX, AX
	MOVL	$60, BX
pair:
	RDFSBASEQ	CX
#ifndef UNMARKED
	PCDATA	$0, $-2
#endif
	MOVQ	-8(CX), CX	// g of the thread whose FS base that is
	PCDATA	$0, $-1
	MOVQ	(TLS), DX	// g of this thread, in one instruction
	CMPQ	CX, DX
	JEQ	same
	INCQ	AX
same:
	DECL	BX
	JNE	pair
	RET
