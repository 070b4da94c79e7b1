// golang/go issue 37741: where every signal lands on an unsafe point, the goroutine is never
// preempted, and signals cost time for nothing. All of this loop is marked unsafe, as Go marks a
// write barrier from its flag's load to its end. One safe boundary in it is enough.
//
// pushcall: go=1.22 every=7
// pushcall broken: expect=preemptions:0 expect=refused:>40
// pushcall mended: define=SAFE_BOUNDARY expect=preemptions:>0

#include "textflag.h"
#include "funcdata.h"

TEXT main·main(SB), NOSPLIT, $0-0
	PCDATA	$0, $-2
	MOVQ	$100, CX
loop:
	ADDQ	CX, AX
	ADDQ	CX, AX
#ifdef SAFE_BOUNDARY
	PCDATA	$0, $-1
	ADDQ	CX, AX
	PCDATA	$0, $-2
#else
	ADDQ	CX, AX
#endif
	DECQ	CX
	JNE	loop
	RET
