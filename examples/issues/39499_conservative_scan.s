// golang/go issues 39499, 80147: a preempted goroutine keeps pointers in registers only, anywhere. The
// stack scan has to take every word of asyncPreempt's frame, and of the function that it interrupted,
// for what may be a pointer, and must bear with words that are none. At each boundary a pointer to an
// object of its own is put into every register; each object has to be marked.
//
// The broken variant is a trampoline that brings every register back, so `check` has nothing to say,
// and keeps DI in static memory meanwhile: what only DI points to would be freed.
//
// pushcall: go=1.22 entry=main·main
// pushcall broken: trampoline=asyncPreempt_hides_di.S expect=missed:RDI
// pushcall broken-check: trampoline=asyncPreempt_hides_di.S expect=preserved
// pushcall mended: expect=found
// pushcall mended-1.27: go=1.27 expect=found

#include "textflag.h"

TEXT main·main(SB), 0, $24-0
	MOVQ	$0x1234, 0(SP)
	CALL	main·leaf(SB)
	RET

TEXT main·leaf(SB), NOSPLIT, $0-8
	MOVQ	n+0(FP), DI
	LEAQ	(DI)(DI*2), SI
	MOVQ	SI, X3
	RET
