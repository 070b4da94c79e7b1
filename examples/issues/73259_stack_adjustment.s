// golang/go issue 73259: (arm64) a large frame was made by two instructions, and the tables knew of
// it in one step. Preempted between the two, the goroutine could not be unwound: what the scan took
// for a return address was rubbish. On amd64 one instruction makes any frame; by hand it can be done
// in two. Where ADJSP tells the tables, every boundary can be unwound and scanned; a SUBQ of SP they
// do not see.
//
// Not here: arm64, whose ADD has no room for a large frame; it is the tables' mistake that is shown.
//
// pushcall: go=1.22 entry=main·main
// pushcall broken: define=UNTOLD expect=missed
// pushcall mended: expect=found

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $16-0
	CALL	main·frame(SB)
	RET

TEXT main·frame(SB), NOSPLIT|NOFRAME, $0-0
	PUSHQ	BP
	MOVQ	SP, BP
	ADJSP	$64
#ifdef UNTOLD
	SUBQ	$32, SP
#else
	ADJSP	$32
#endif
	MOVQ	$0, 8(SP)
	MOVQ	$-1, 16(SP)
#ifdef UNTOLD
	ADDQ	$32, SP
#else
	ADJSP	$-32
#endif
	ADJSP	$-64
	POPQ	BP
	RET
