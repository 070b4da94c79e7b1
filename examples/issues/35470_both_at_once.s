// golang/go issue 35470: a synchronous request and a signal met in one prologue. The goroutine has
// seen stackPreempt in its stack check and is on its way to morestack when the signal comes. If it
// is preempted there, execute withdraws the request; but the goroutine still calls morestack, which
// then takes it for a want of stack and doubles the stack, each time anew. The way from the compare
// to the call has been marked unsafe since then.
//
// main sets stackguard0 as preemptone does, calls a function with a check of its own, and the
// signal comes before the compare, between compare and jump, or before the call of morestack.
//
// pushcall: go=1.22 entry=main·main
// pushcall before: at-pc=main·check+0x9 expect=copies:0 expect=preemptions:6
// pushcall broken: define=UNMARKED at-pc=main·check+0xd expect=copies:6
// pushcall broken-call: define=UNMARKED at-pc=main·check+0xf expect=copies:6
// pushcall mended: at-pc=main·check+0xd expect=copies:0 expect=preemptions:0 expect=cooperative:6
// pushcall mended-call: at-pc=main·check+0xf expect=copies:0 expect=preemptions:0 expect=cooperative:6

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
	MOVQ	(TLS), CX
	CMPQ	SP, 16(CX)
#ifndef UNMARKED
	PCDATA	$0, $-2
#endif
	JHI	enough
	CALL	runtime·morestack_noctxt(SB)
	PCDATA	$0, $-1
	JMP	main·check(SB)
enough:
	PCDATA	$0, $-1
	RET
