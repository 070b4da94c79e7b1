// FEX-Emu/FEX issue 5810: an emulator lost the RIP that a handler had written into the signal
// context. pushCall moves RSP down, stores the resume PC there and sets RIP to asyncPreempt. With
// RSP honoured and RIP not, the goroutine goes on where it was with 8 bytes less: each signal costs
// it some stack, and its RET goes to a resume PC.
//
// pushcall: go=1.22
// pushcall broken: kernel-bug=sigreturn-ignores-rip at=5 budget=20000 expect=starves expect=preemptions:1
// pushcall broken-check: kernel-bug=sigreturn-ignores-rip expect=lost
// pushcall mended: at=5 expect=ends expect=preemptions:1
// pushcall mended-check: expect=preserved

#include "textflag.h"

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$9, CX
loop:
	DECQ	CX
	JNE	loop
	RET
