// Keeps a value below RSP, in what C calls the red zone. Go has none: the pushed PC and
// asyncPreempt's frame overwrite it. `pushcall check` names the boundary.
//
// pushcall: entry=main·main

#include "textflag.h"

TEXT main·main(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$42, AX
	MOVQ	AX, -8(SP)
	XORL	AX, AX
	MOVQ	-8(SP), BX
	RET
