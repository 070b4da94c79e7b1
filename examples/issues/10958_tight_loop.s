// golang/go issues 10958, 24543: a loop without calls cannot be preempted by stack checks. The
// first goroutine waits for the second, which never gets the only P: up to Go 1.13 for ever.
// Since 1.14 sysmon's signal stops the loop, and both end.
//
// pushcall: entry=main·main goroutines=2 procs=1 budget=40000000
// pushcall broken: go=1.13 quantum=100us budget=1000000 expect=starves expect=preemptions:0
// pushcall mended: go=1.14 quantum=100us expect=ends expect=preemptions:>0

#include "textflag.h"

GLOBL	main·ticket(SB), NOPTR, $8
GLOBL	main·done(SB), NOPTR, $8

TEXT main·main(SB), NOSPLIT, $0-0
	MOVQ	$1, AX
	LOCK
	XADDQ	AX, main·ticket(SB)
	TESTQ	AX, AX
	JEQ	wait
	MOVQ	$1, main·done(SB)
	RET
wait:
	CMPQ	main·done(SB), $0
	JEQ	wait
	RET
