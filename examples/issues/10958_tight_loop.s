// golang/go issue 10958: a loop without calls cannot be preempted by stack checks. The first
// goroutine waits for the second, which never gets the only P: up to Go 1.13 for ever.
// Since 1.14 sysmon's signal stops the loop, and both end.
//
// pushcall: entry=main·main goroutines=2 procs=1 budget=40000000

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
